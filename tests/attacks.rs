//! What a stranger may try, and what it is to cost: each attack is bounded in time and connections, and has a bound on memory.

mod bounds;
