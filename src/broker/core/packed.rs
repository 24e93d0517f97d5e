//! A sorted map that takes little more memory than its entries.

/// Most entries of a block. Putting one in moves some kilobytes at most.
const BLOCK: usize = 256;

/// Entries by ascending key, in blocks that are sorted and none of which is empty. Where keys come in their order the blocks are
/// full, where they come in any order two thirds of each is used. A `BTreeMap` has nodes of eleven, half of them empty if keys come
/// in their order: it takes twice as much.
#[derive(Debug)]
pub(super) struct Packed<K, V> {
    blocks: Vec<Vec<(K, V)>>,
    len: usize,
}

impl<K, V> Default for Packed<K, V> {
    fn default() -> Packed<K, V> {
        Packed { blocks: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Copy, V: Copy> Packed<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The block that has the key, or would.
    fn block(&self, key: K) -> usize {
        self.blocks.partition_point(|block| block[0].0 <= key).saturating_sub(1)
    }

    /// Where the key is.
    fn find(&self, key: K) -> Option<(usize, usize)> {
        let block = self.block(key);
        let at = self.blocks.get(block)?.binary_search_by_key(&key, |entry| entry.0).ok()?;
        Some((block, at))
    }

    /// The value of a key.
    pub(super) fn get(&self, key: K) -> Option<V> {
        self.find(key).map(|(block, at)| self.blocks[block][at].1)
    }

    /// Puts a value in the place of the one that the key had, or adds it.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let mut at = self.block(key);
        let Some(block) = self.blocks.get_mut(at) else {
            self.len = 1;
            return self.blocks.push(vec![(key, value)]);
        };
        let mut place = match block.binary_search_by_key(&key, |entry| entry.0) {
            Ok(place) => {
                block[place].1 = value;
                return;
            }
            Err(place) => place,
        };
        self.len += 1;
        if block.len() == BLOCK {
            let is_last = place == BLOCK && at + 1 == self.blocks.len();
            let half = if is_last { BLOCK } else { BLOCK / 2 };
            let rest = self.blocks[at].split_off(half);
            self.blocks.insert(at + 1, rest);
            if place > half || is_last {
                (at, place) = (at + 1, place - half);
            }
        }
        self.blocks[at].insert(place, (key, value));
    }

    /// Takes out the value of a key.
    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        let (block, at) = self.find(key)?;
        Some(self.take(block, at).1)
    }

    /// The entry with the smallest key.
    pub(super) fn first(&self) -> Option<(K, V)> {
        self.blocks.first().map(|block| block[0])
    }

    /// Takes out the entry with the smallest key.
    pub(super) fn pop_first(&mut self) -> Option<(K, V)> {
        if self.is_empty() { None } else { Some(self.take(0, 0)) }
    }

    fn take(&mut self, at: usize, place: usize) -> (K, V) {
        let block = &mut self.blocks[at];
        let entry = block.remove(place);
        self.len -= 1;
        if block.is_empty() {
            self.blocks.remove(at);
        } else if block.len() < BLOCK / 4 && block.capacity() > BLOCK / 2 {
            block.shrink_to(BLOCK / 4);
        }
        entry
    }

    /// All of it, by ascending key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, V)> {
        self.blocks.iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_is_a_sorted_map_whatever_the_order_of_keys() {
        // Up, down, and all over the place; then out again in another order.
        let orders: [fn(u64) -> u64; 3] = [|n| n, |n| 10_000 - n, |n| n * 7919 % 10_007];
        for order in orders {
            let (mut packed, mut plain) = (Packed::default(), BTreeMap::new());
            for n in 0..10_000 {
                packed.insert(order(n), n);
                plain.insert(order(n), n);
            }
            packed.insert(order(5), 1);
            plain.insert(order(5), 1);
            assert!(packed.iter().eq(plain.iter().map(|(key, value)| (*key, *value))));
            for n in (0..10_007).filter(|n| n % 8 != 3) {
                let key = n * 31 % 10_007;
                assert_eq!((packed.get(key), packed.remove(key)), (plain.get(&key).copied(), plain.remove(&key)));
            }
            assert!(packed.iter().eq(plain.iter().map(|(key, value)| (*key, *value))));
            while let Some(first) = plain.pop_first() {
                assert_eq!((packed.first(), packed.len()), (Some(first), plain.len() + 1));
                assert_eq!(packed.pop_first(), Some(first));
            }
            assert!(packed.is_empty() && packed.pop_first().is_none() && packed.blocks.is_empty());
        }
    }

    #[test]
    fn keys_in_their_order_fill_their_blocks() {
        let mut packed = Packed::default();
        (0..100_000).for_each(|n: u64| packed.insert(n, ()));
        let taken: usize = packed.blocks.iter().map(Vec::capacity).sum();
        assert!(taken < 101_000, "{taken}");
    }
}
