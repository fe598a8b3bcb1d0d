//! A small hash table for keys that are numbers, emptied in no time.

/// Numbers by numbers. Emptying it is a step of a counter, so that short texts do not pay for a long one before them.
#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<Slot>,
    len: usize,
    /// Slots with another round are free.
    round: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    round: u32,
    value: u32,
}

const FEWEST_SLOTS: usize = 64;

impl Table {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.len = 0;
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.slots.fill(Slot::default());
            self.round = 1;
        }
    }

    /// The value of a key.
    #[inline]
    pub fn get(&self, key: u64) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slots[self.find(key)];
        (slot.round == self.round).then_some(slot.value)
    }

    /// The value of a key, which is `value` if it had none.
    #[inline]
    pub fn get_or_insert(&mut self, key: u64, value: u32) -> u32 {
        if self.len * 2 >= self.slots.len() {
            self.grow();
        }
        let at = self.find(key);
        if self.slots[at].round == self.round {
            return self.slots[at].value;
        }
        self.slots[at] = Slot { key, round: self.round, value };
        self.len += 1;
        value
    }

    /// Where a key is or would be.
    #[inline]
    fn find(&self, key: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize & mask;
        while self.slots[at].round == self.round && self.slots[at].key != key {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(FEWEST_SLOTS);
        // Round 0 is that of slots never used.
        let (before, round) = (std::mem::replace(&mut self.slots, vec![Slot::default(); slots]), self.round);
        self.round = 1;
        for slot in before.into_iter().filter(|slot| round != 0 && slot.round == round) {
            let at = self.find(slot.key);
            self.slots[at] = Slot { round: 1, ..slot };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_keeps_the_first_value_until_it_is_cleared() {
        let mut table = Table::default();
        for round in 0..3 {
            table.clear();
            assert_eq!(table.get(7), None);
            for key in 0..1000 {
                assert_eq!(table.get_or_insert(key << 20, key as u32 + round), key as u32 + round);
                assert_eq!(table.get_or_insert(key << 20, 5_000), key as u32 + round);
            }
            assert_eq!((table.get(999 << 20), table.get(1)), (Some(999 + round), None));
        }
    }
}
