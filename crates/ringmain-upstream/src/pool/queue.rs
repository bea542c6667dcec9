//! A line in which uids take turns, and those of one uid stand in order of arrival.

use std::collections::{HashMap, VecDeque};

/// Who waits. Bound: `total`, and `per_uid` of one uid.
#[derive(Debug)]
pub(super) struct Queue<T> {
    total: usize,
    per_uid: usize,
    uids: HashMap<u32, VecDeque<T>>,
    /// Every uid that waits, once; the first is next.
    turn: VecDeque<u32>,
    len: usize,
}

impl<T> Queue<T> {
    pub fn new(total: usize, per_uid: usize) -> Queue<T> {
        Queue { total, per_uid, uids: HashMap::new(), turn: VecDeque::new(), len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes a place behind those of the same uid; without room the item comes back.
    pub fn push(&mut self, uid: u32, item: T) -> Result<(), T> {
        let of_uid = self.uids.get(&uid).map_or(0, VecDeque::len);
        if self.len >= self.total || of_uid >= self.per_uid {
            return Err(item);
        }
        if of_uid == 0 {
            self.turn.push_back(uid);
        }
        self.uids.entry(uid).or_default().push_back(item);
        self.len += 1;
        Ok(())
    }

    /// The next one. Its uid goes to the end of the line.
    pub fn pop(&mut self) -> Option<(u32, T)> {
        let uid = self.turn.pop_front()?;
        let items = self.uids.get_mut(&uid)?;
        let item = items.pop_front()?;
        self.len -= 1;
        match items.is_empty() {
            true => drop(self.uids.remove(&uid)),
            false => self.turn.push_back(uid),
        }
        Some((uid, item))
    }

    /// Undoes the [`pop`](Queue::pop) just before.
    pub fn put_back(&mut self, (uid, item): (u32, T)) {
        if self.uids.contains_key(&uid) {
            self.turn.pop_back();
        }
        self.turn.push_front(uid);
        self.uids.entry(uid).or_default().push_front(item);
        self.len += 1;
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.uids.values().flatten()
    }

    /// Lets those go for whom `stays` says no.
    pub fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        self.uids.values_mut().for_each(|items| items.retain(&mut stays));
        self.uids.retain(|_, items| !items.is_empty());
        let Queue { uids, turn, .. } = self;
        turn.retain(|uid| uids.contains_key(uid));
        self.len = self.uids.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_take_turns_and_have_their_own_bounds() {
        let mut queue = Queue::new(7, 5);
        for at in 0..5 {
            queue.push(1, (1, at)).unwrap();
        }
        assert_eq!(queue.push(1, (1, 5)), Err((1, 5)), "the bound of a uid");
        queue.push(2, (2, 0)).unwrap();
        queue.push(3, (3, 0)).unwrap();
        assert_eq!(queue.push(4, (4, 0)), Err((4, 0)), "the bound of all");
        queue.retain(|item| *item != (1, 1));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, item)| item).collect();
        assert_eq!(order, [(1, 0), (2, 0), (3, 0), (1, 2), (1, 3), (1, 4)]);
        assert_eq!((queue.len(), queue.turn.len(), queue.uids.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_put_back_is_next_again() {
        let mut queue = Queue::new(9, 9);
        for (uid, item) in [(1, 'a'), (2, 'b'), (1, 'c')] {
            queue.push(uid, item).unwrap();
        }
        for expected in [(1, 'a'), (2, 'b'), (1, 'c')] {
            for _ in 0..3 {
                let first = queue.pop().unwrap();
                assert_eq!(first, expected);
                queue.put_back(first);
            }
            assert_eq!(queue.pop(), Some(expected));
        }
        queue.push(7, 'd').unwrap();
        queue.retain(|_| false);
        assert_eq!((queue.len(), queue.pop()), (0, None));
    }
}
