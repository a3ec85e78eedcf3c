//! The subtrees that a question about the tree needs, gathered from where they are kept.
//!
//! A store keeps the roots of complete subtrees at every eighth level: of 256 records, of 65 536, and so on (as
//! C2SP tlog-tiles cuts a tree). Whatever is asked, what lies between comes from at most 256 of them, or of leaves, in a
//! row; so a proof reads a few rows of 256 hashes, however long the log is.

use std::collections::BTreeMap;

use crate::audit::merkle::{Subtrees, TreeHash};
use crate::error::{Error, Reason, Result};

/// Levels from one kept level to the next.
pub const KEPT_LEVELS: u32 = 8;
/// Hashes in one row.
pub const ROW_HASHES: u64 = 1 << KEPT_LEVELS;

/// A complete subtree whose root is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// It has 2^level leaves; a multiple of [`KEPT_LEVELS`], not 0.
    pub level: u32,
    /// Its place among those of its level.
    pub index: u64,
    /// Its root.
    pub root: TreeHash,
}

impl Kept {
    /// Makes it of a subtree that became complete, if its root is one of those to keep.
    #[must_use]
    pub fn of(level: u32, index: u64, root: TreeHash) -> Option<Self> {
        (level > 0 && level.is_multiple_of(KEPT_LEVELS)).then_some(Kept { level, index, root })
    }
}

/// Neighbouring hashes of one level to be read: leaves, or kept roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The level, a multiple of [`KEPT_LEVELS`]; 0 for leaves.
    pub level: u32,
    /// The first index, a multiple of 256.
    pub first: u64,
    /// How many, at most 256.
    pub count: u32,
}

/// What a question needs. The first time it is asked, the subtrees that it names are noted and what it answers is
/// void; when all of them are there, it is asked again.
#[derive(Debug, Default)]
pub struct Gathered(BTreeMap<(u32, u64), Option<TreeHash>>);

impl Gathered {
    /// The rows in which what is missing stands.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: BTreeMap<(u32, u64), u32> = BTreeMap::new();
        for (level, index) in self.0.iter().filter(|(_, hash)| hash.is_none()).map(|(place, _)| *place) {
            let (above, first, end) = place(level, index);
            let count = rows.entry((level - above, first)).or_default();
            *count = (*count).max(u32::try_from(end - first).unwrap_or(u32::MAX));
        }
        rows.into_iter().map(|((level, first), count)| Row { level, first, count }).collect()
    }

    /// Takes what was read for a row.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if it is not as many hashes as the row has.
    pub fn learn_row(&mut self, row: Row, hashes: &[TreeHash]) -> Result<()> {
        if hashes.len() != row.count as usize {
            let words = format!("the store has not all of its records or of their tree from place {}", row.first);
            return Err(Error::new(Reason::RecordBroken, words));
        }
        for ((level, index), hash) in self.0.iter_mut().filter(|(_, hash)| hash.is_none()) {
            let (above, first, _) = place(*level, *index);
            if (level - above, first) == (row.level, row.first) {
                let mut hashes = hashes;
                *hash = Some(hashes.subtree(above, *index - (first >> above))?);
            }
        }
        Ok(())
    }

    /// Takes one subtree, if it is missing: for those who read a whole log and see each subtree once.
    pub fn learn(&mut self, level: u32, index: u64, hash: TreeHash) {
        if let Some(missing) = self.0.get_mut(&(level, index)) {
            missing.get_or_insert(hash);
        }
    }
}

impl Subtrees for Gathered {
    fn subtree(&mut self, level: u32, index: u64) -> Result<TreeHash> {
        Ok(self.0.entry((level, index)).or_default().unwrap_or_else(TreeHash::empty))
    }
}

/// Of a subtree: how far it is above the kept level below it, where its row there begins, and where in it it ends.
fn place(level: u32, index: u64) -> (u32, u64, u64) {
    let above = level % KEPT_LEVELS;
    let begin = index << above;
    (above, begin - begin % ROW_HASHES, begin + (1 << above))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::merkle::{Frontier, consistency_path, inclusion_path, root};

    #[test]
    fn what_is_gathered_answers_as_the_leaves_do_and_is_at_most_256_hashes_a_row() {
        let size = 70_000u64;
        let leaves: Vec<TreeHash> = (0..size).map(|n| TreeHash::leaf(&n.to_be_bytes())).collect();
        let mut kept = BTreeMap::new();
        let mut tree = Frontier::default();
        for leaf in &leaves {
            tree.append(*leaf, |level, index, root| {
                kept.extend(Kept::of(level, index, root).map(|kept| ((kept.level, kept.index), kept.root)));
            });
        }
        assert_eq!(kept.len(), 273 + 1);
        let gather = |question: &dyn Fn(&mut Gathered) -> Vec<TreeHash>| {
            let mut gathered = Gathered::default();
            question(&mut gathered);
            let rows = gathered.rows();
            assert!(rows.len() <= 6 && rows.iter().all(|row| row.count <= 256), "{rows:?}");
            for row in rows {
                let hashes: Vec<TreeHash> = (row.first..row.first + u64::from(row.count))
                    .map(|index| match row.level {
                        0 => leaves[usize::try_from(index).unwrap()],
                        level => kept[&(level, index)],
                    })
                    .collect();
                gathered.learn_row(row, &hashes).unwrap();
            }
            assert!(gathered.rows().is_empty());
            question(&mut gathered)
        };
        let mut all = &leaves[..];
        for (old, new) in [(0, 1), (255, 256), (256, 257), (65_535, 65_536), (65_537, 70_000), (69_999, 70_000)] {
            assert_eq!(gather(&|it| vec![root(new, it).unwrap()]), [root(new, &mut all).unwrap()]);
            let path = inclusion_path(old, new, &mut all).unwrap();
            assert_eq!(gather(&|it| inclusion_path(old, new, it).unwrap()), path);
            let path = consistency_path(old, new, &mut all).unwrap();
            assert_eq!(gather(&|it| consistency_path(old, new, it).unwrap()), path);
        }
        assert_eq!(gather(&|it| vec![Frontier::of(size, it).unwrap().root()]), [tree.root()]);
    }

    #[test]
    fn a_row_that_is_cut_is_not_taken() {
        let mut gathered = Gathered::default();
        gathered.subtree(1, 3).unwrap();
        let row = gathered.rows()[0];
        assert_eq!(row, Row { level: 0, first: 0, count: 8 });
        assert_eq!(gathered.learn_row(row, &[TreeHash::empty(); 7]).unwrap_err().reason(), Reason::RecordBroken);
    }
}
