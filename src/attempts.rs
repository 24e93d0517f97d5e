//! What is counted of the deliveries of a task to a group.

use crate::task::Outcome;

/// How often a task went out to a group, and what of it counts.
///
/// An attempt is spent when work begins: with the first word of the client about a delivery. A client that does not say
/// when it begins is taken to begin with the delivery. What is never begun costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    /// How often it was delivered. The number of a delivery tells it apart from others.
    pub deliveries: u32,
    /// Of how many of these work began: at most the task's `max_attempts`.
    pub spent: u32,
    /// The last delivery is among those that are spent.
    pub begun: bool,
    /// How many of the last deliveries, one after another, ended with a client that said nothing more about anything.
    pub silent: u32,
}

impl Attempts {
    /// So many deliveries, each of which counts: all that was known before clients said when they begin.
    pub fn all_spent(deliveries: u32) -> Attempts {
        Attempts { deliveries, spent: deliveries, begun: deliveries > 0, silent: 0 }
    }

    /// One more delivery. Work begins with it, or when its client says so.
    #[must_use]
    pub fn delivered(self, begun: bool) -> Attempts {
        let delivered = Attempts { deliveries: self.deliveries.saturating_add(1), begun: false, ..self };
        if begun { delivered.begin() } else { delivered }
    }

    /// Work on the last delivery began. Counts once, however often it is said.
    #[must_use]
    pub fn begin(self) -> Attempts {
        let spent = if self.begun { self.spent } else { self.spent.saturating_add(1) };
        Attempts { spent, begun: true, silent: 0, ..self }
    }

    /// Its client says that work on the last delivery did not begin, whatever was thought before.
    #[must_use]
    pub fn release(self) -> Attempts {
        Attempts { spent: self.spent - u32::from(self.begun), begun: false, ..self }
    }

    /// That delivery, which may have been forgotten, is still with its client, which is there.
    #[must_use]
    pub fn go_on(self, delivery: u32) -> Attempts {
        Attempts { deliveries: delivery, begun: self.begun && delivery == self.deliveries, silent: 0, ..self }
    }

    /// Its client was not heard of again after the last delivery.
    #[must_use]
    pub fn fall_silent(self) -> Attempts {
        Attempts { silent: self.silent.saturating_add(1), ..self }
    }

    /// Repeats what an outcome of that delivery, which did not settle the task, changed.
    #[must_use]
    pub fn replay(self, delivery: u32, outcome: Outcome) -> Attempts {
        let newer = delivery > self.deliveries;
        let last = Attempts { deliveries: delivery.max(self.deliveries), begun: self.begun && !newer, ..self };
        if outcome == Outcome::Released { last.release() } else { last.begin() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_spent_once_when_work_begins() {
        let delivered = Attempts::default().delivered(false);
        assert_eq!((delivered.deliveries, delivered.spent), (1, 0));
        assert_eq!(delivered.begin().begin().spent, 1);
        assert_eq!(Attempts::default().delivered(true), delivered.begin());
    }

    #[test]
    fn what_was_not_begun_is_not_spent() {
        let twice = Attempts::all_spent(1).delivered(false).fall_silent();
        assert_eq!(twice.release(), Attempts { deliveries: 2, spent: 1, begun: false, silent: 1 });
        assert_eq!(twice.begin().release().spent, 1);
        assert_eq!(twice.begin().silent, 0);
    }

    #[test]
    fn an_outcome_is_repeated_as_it_was_whether_or_not_a_checkpoint_had_seen_the_delivery() {
        let before = Attempts::all_spent(2);
        let delivered = before.delivered(false);
        for (outcome, after) in [(Outcome::Lost, delivered.begin()), (Outcome::Released, delivered)] {
            for checkpoint in [before, delivered, delivered.begin()] {
                assert_eq!(checkpoint.replay(3, outcome), after);
            }
        }
    }
}
