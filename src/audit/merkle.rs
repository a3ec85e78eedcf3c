//! The Merkle tree over a log's records (RFC 6962, section 2.1): roots, inclusion and consistency proofs.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Reason, Result};

/// A hash of the tree: 32 bytes of SHA-256; as text, base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeHash(pub [u8; 32]);

impl TreeHash {
    /// The hash of a leaf: SHA-256 of 0x00 and the record's stored bytes.
    #[must_use]
    pub fn leaf(record: &[u8]) -> Self {
        TreeHash::of(&[&[0x00], record])
    }

    /// The hash of an inner node: SHA-256 of 0x01 and its two children.
    #[must_use]
    pub fn node(left: TreeHash, right: TreeHash) -> Self {
        TreeHash::of(&[&[0x01], &left.0, &right.0])
    }

    /// The root of a tree without leaves: SHA-256 of nothing.
    #[must_use]
    pub fn empty() -> Self {
        TreeHash::of(&[])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        TreeHash(hash)
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TreeHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(TreeHash).ok_or_else(|| Error::new(Reason::InvalidArgument, "a tree hash is the base64 of 32 bytes"))
    }
}

/// The right edge of a growing tree: all that is needed to append a leaf and to state the root. At most 64 hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of the complete subtrees that the tree falls apart into, largest first: one per bit set in `size`.
    subtrees: Vec<TreeHash>,
}

impl Frontier {
    /// Takes back what [`Frontier::to_bytes`] gave for a tree of `size` leaves.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if a tree of this size has another number of subtrees.
    pub fn from_bytes(size: u64, bytes: &[u8]) -> Result<Self> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || hashes.len() != size.count_ones() as usize {
            return Err(Error::new(Reason::RecordBroken, format!("not the frontier of a tree of {size} leaves")));
        }
        Ok(Frontier { size, subtrees: hashes.iter().copied().map(TreeHash).collect() })
    }

    /// The right edge of the tree of the first `size` leaves.
    ///
    /// # Errors
    /// Those of the source.
    pub fn of(size: u64, source: &mut impl Subtrees) -> Result<Self> {
        let mut subtrees = Vec::new();
        let mut start = 0;
        for level in (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1) {
            subtrees.push(source.subtree(level, start >> level)?);
            start += 1 << level;
        }
        Ok(Frontier { size, subtrees })
    }

    /// The hashes one after the other, largest subtree first: 32 bytes for each bit set in the size.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.subtrees.iter().flat_map(|hash| hash.0).collect()
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its hash. `complete` learns each complete subtree that this makes, beginning with the leaf:
    /// its level (it has 2^level leaves), its index among those of its level, and its hash.
    pub fn append(&mut self, leaf: TreeHash, mut complete: impl FnMut(u32, u64, TreeHash)) {
        let mut hash = leaf;
        complete(0, self.size, hash);
        for level in 0..self.size.trailing_ones() {
            let Some(left) = self.subtrees.pop() else { break };
            hash = TreeHash::node(left, hash);
            complete(level + 1, self.size >> (level + 1), hash);
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        let smaller_first = self.subtrees.iter().rev().copied();
        smaller_first.reduce(|right, left| TreeHash::node(left, right)).unwrap_or_else(TreeHash::empty)
    }
}

/// Hashes of complete subtrees, by level and index: level 0 are the leaves, `(2, 3)` covers the leaves 12 to 15. The
/// functions below ask only for subtrees that lie inside the tree they were told of.
pub trait Subtrees {
    /// The hash of one complete subtree.
    ///
    /// # Errors
    /// Whatever keeps the source from answering.
    fn subtree(&mut self, level: u32, index: u64) -> Result<TreeHash>;
}

/// A source that has only leaves makes the hashes above from them; for logs that fit in memory.
impl Subtrees for &[TreeHash] {
    fn subtree(&mut self, level: u32, index: u64) -> Result<TreeHash> {
        if level > 0 {
            return Ok(TreeHash::node(self.subtree(level - 1, 2 * index)?, self.subtree(level - 1, 2 * index + 1)?));
        }
        let leaf = usize::try_from(index).ok().and_then(|index| self.get(index));
        leaf.copied().ok_or_else(|| Error::new(Reason::NotFound, format!("there is no leaf {index}")))
    }
}

/// The root of the first `size` leaves.
///
/// # Errors
/// Those of the source.
pub fn root(size: u64, source: &mut impl Subtrees) -> Result<TreeHash> {
    if size == 0 { Ok(TreeHash::empty()) } else { range_root(0, size, source) }
}

/// The inclusion proof of leaf `index` in the tree of the first `size` leaves (RFC 6962, section 2.1.1): from the
/// leaf's sibling up.
///
/// # Errors
/// `INVALID_ARGUMENT` if the tree has no such leaf; those of the source.
pub fn inclusion_path(index: u64, size: u64, source: &mut impl Subtrees) -> Result<Vec<TreeHash>> {
    if index >= size {
        return Err(Error::new(Reason::InvalidArgument, format!("a log of {size} records has no record {index}")));
    }
    let mut path = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_root(middle, end, source)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, source)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of the first `old` leaves is the beginning of the one of the first `new` (RFC 6962,
/// section 2.1.2). Empty if one of them has no leaves, or if they are equal.
///
/// # Errors
/// `INVALID_ARGUMENT` if the new tree is smaller; those of the source.
pub fn consistency_path(old: u64, new: u64, source: &mut impl Subtrees) -> Result<Vec<TreeHash>> {
    if old > new {
        return Err(Error::new(Reason::InvalidArgument, format!("a log of {new} records does not continue {old}")));
    }
    let mut path = Vec::new();
    if old == 0 || old == new {
        return Ok(path);
    }
    let (mut start, mut end) = (0, new);
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            path.push(range_root(middle, end, source)?);
            end = middle;
        } else {
            path.push(range_root(start, middle, source)?);
            start = middle;
        }
    }
    // What is left is a subtree that both trees share. The verifier knows its hash already if it is the whole old tree.
    if start > 0 {
        path.push(range_root(start, end, source)?);
    }
    path.reverse();
    Ok(path)
}

/// Checks an inclusion proof (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// `SIGNATURE_INVALID` if the leaf is not at `index` of the tree with this size and root.
pub fn verify_inclusion(leaf: TreeHash, index: u64, size: u64, path: &[TreeHash], root: TreeHash) -> Result<()> {
    let mut hash = leaf;
    let join = |side, sibling| match side {
        Side::Left => hash = TreeHash::node(sibling, hash),
        Side::Right => hash = TreeHash::node(hash, sibling),
    };
    if index < size && climb(index, size - 1, path, join) && hash == root {
        return Ok(());
    }
    Err(Error::new(Reason::SignatureInvalid, format!("the proof does not put this record at {index} of {size}")))
}

/// Checks a consistency proof between two sizes with their roots (RFC 9162, section 2.1.4.2).
///
/// # Errors
/// `SIGNATURE_INVALID` if the old tree is not the beginning of the new one, or the proof does not show it.
pub fn verify_consistency(old: (u64, TreeHash), new: (u64, TreeHash), path: &[TreeHash]) -> Result<()> {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    let shown = if old_size == 0 {
        path.is_empty() && old_root == TreeHash::empty()
    } else if old_size == new_size {
        path.is_empty() && old_root == new_root
    } else if old_size > new_size {
        false
    } else {
        grows(old, new, path)
    };
    if shown {
        return Ok(());
    }
    let words = format!("the log of {new_size} records does not continue the one of {old_size} with this root");
    Err(Error::new(Reason::SignatureInvalid, words))
}

/// Whether the path leads to both roots, for 0 < old < new.
fn grows((old_size, old_root): (u64, TreeHash), (new_size, new_root): (u64, TreeHash), path: &[TreeHash]) -> bool {
    // The walk begins at the last complete subtree of the old tree. If that is the whole of it, its hash is known.
    let (first, path) = match path.split_first() {
        _ if old_size.is_power_of_two() => (old_root, path),
        Some((first, path)) => (*first, path),
        None => return false,
    };
    let level = (old_size - 1).trailing_ones();
    let (mut old_hash, mut new_hash) = (first, first);
    let join = |side, sibling| match side {
        Side::Left => (old_hash, new_hash) = (TreeHash::node(sibling, old_hash), TreeHash::node(sibling, new_hash)),
        Side::Right => new_hash = TreeHash::node(new_hash, sibling),
    };
    climb((old_size - 1) >> level, (new_size - 1) >> level, path, join) && old_hash == old_root && new_hash == new_root
}

/// On which side of a node its sibling stands.
enum Side {
    Left,
    Right,
}

/// Goes up from node `at` of a level whose last node is `last`, giving each sibling of the path with its side. Whether
/// the path ends at the root, neither before nor beyond.
fn climb(mut at: u64, mut last: u64, path: &[TreeHash], mut join: impl FnMut(Side, TreeHash)) -> bool {
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at == last && at & 1 == 0 {
            // The last node of a level without a sibling there stands for its parent, until it has one.
            let lone = at.trailing_zeros();
            (at, last) = (at >> lone, last >> lone);
        }
        join(if at & 1 == 1 { Side::Left } else { Side::Right }, *sibling);
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0
}

/// Where a tree of `size` leaves, at least two, divides: the largest power of two below it.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The root of the leaves from `start` to before `end`. `start` is a multiple of a power of two that is not smaller
/// than the range, as the ranges of RFC 6962 always are.
fn range_root(start: u64, end: u64, source: &mut impl Subtrees) -> Result<TreeHash> {
    let size = end - start;
    if size.is_power_of_two() {
        let level = size.ilog2();
        return source.subtree(level, start >> level);
    }
    let middle = start + split(size);
    Ok(TreeHash::node(range_root(start, middle, source)?, range_root(middle, end, source)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<TreeHash> {
        (0..count).map(|n| TreeHash::leaf(format!("record {n}").as_bytes())).collect()
    }

    /// The definitions of RFC 6962, sections 2.1 to 2.1.2, word for word.
    mod by_definition {
        use super::*;

        pub(super) fn root(d: &[TreeHash]) -> TreeHash {
            match d {
                [] => TreeHash::empty(),
                [leaf] => *leaf,
                _ => {
                    let k = d.len().next_power_of_two() / 2;
                    TreeHash::node(root(&d[..k]), root(&d[k..]))
                }
            }
        }

        pub(super) fn path(m: usize, d: &[TreeHash]) -> Vec<TreeHash> {
            let k = d.len().next_power_of_two() / 2;
            if d.len() == 1 {
                vec![]
            } else if m < k {
                [path(m, &d[..k]), vec![root(&d[k..])]].concat()
            } else {
                [path(m - k, &d[k..]), vec![root(&d[..k])]].concat()
            }
        }

        pub(super) fn subproof(m: usize, d: &[TreeHash], b: bool) -> Vec<TreeHash> {
            let k = d.len().next_power_of_two() / 2;
            if m == d.len() {
                if b { vec![] } else { vec![root(d)] }
            } else if m <= k {
                [subproof(m, &d[..k], b), vec![root(&d[k..])]].concat()
            } else {
                [subproof(m - k, &d[k..], false), vec![root(&d[..k])]].concat()
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_published_test_tree() {
        let data = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut frontier = Frontier::default();
        assert_eq!(hex::encode(frontier.root().0), roots[0]);
        for (data, expected) in data.iter().zip(&roots[1..]) {
            frontier.append(TreeHash::leaf(&hex::decode(data).unwrap()), |_, _, _| {});
            assert_eq!(hex::encode(frontier.root().0), *expected);
        }
    }

    #[test]
    fn a_frontier_has_the_root_of_all_its_leaves_and_survives_being_stored() {
        let all = leaves(70);
        let mut frontier = Frontier::default();
        for size in 0..=70u64 {
            let leaves = &all[..usize::try_from(size).unwrap()];
            assert_eq!(frontier.root(), by_definition::root(leaves), "{size}");
            assert_eq!(frontier.root(), root(size, &mut &all[..]).unwrap(), "{size}");
            frontier = Frontier::from_bytes(size, &frontier.to_bytes()).unwrap();
            assert_eq!(frontier.size(), size);
            assert!(
                Frontier::from_bytes(size + 1, &frontier.to_bytes()).is_err()
                    || size.count_ones() == (size + 1).count_ones()
            );
            if size < 70 {
                frontier.append(all[usize::try_from(size).unwrap()], |_, _, _| {});
            }
        }
        assert!(Frontier::from_bytes(1, &[0; 33]).is_err());
    }

    #[test]
    fn appending_tells_every_complete_subtree_once() {
        let all = leaves(21);
        let mut told = std::collections::BTreeMap::new();
        let mut frontier = Frontier::default();
        for leaf in &all {
            frontier.append(*leaf, |level, index, hash| assert!(told.insert((level, index), hash).is_none()));
        }
        assert_eq!(told.len(), 21 + 10 + 5 + 2 + 1);
        for ((level, index), hash) in told {
            assert_eq!(hash, (&all[..]).subtree(level, index).unwrap(), "{level} {index}");
        }
    }

    #[test]
    fn proofs_are_those_of_the_definition_and_hold_for_every_pair_of_sizes() {
        let all = leaves(35);
        for new in 0..=35u64 {
            let tree = &all[..usize::try_from(new).unwrap()];
            let new_root = by_definition::root(tree);
            for old in 0..=new {
                let m = usize::try_from(old).unwrap();
                let path = consistency_path(old, new, &mut &all[..]).unwrap();
                if old > 0 {
                    assert_eq!(path, by_definition::subproof(m, tree, true), "{old} {new}");
                }
                verify_consistency((old, by_definition::root(&all[..m])), (new, new_root), &path).unwrap();
                if old < new {
                    let path = inclusion_path(old, new, &mut &all[..]).unwrap();
                    assert_eq!(path, by_definition::path(m, tree), "{old} {new}");
                    verify_inclusion(all[m], old, new, &path, new_root).unwrap();
                }
            }
            assert!(inclusion_path(new, new, &mut &all[..]).is_err());
            assert!(consistency_path(new + 1, new, &mut &all[..]).is_err());
        }
    }

    #[test]
    fn a_changed_cut_or_lengthened_inclusion_proof_does_not_hold() {
        let all = leaves(13);
        let root = by_definition::root(&all);
        for index in 0..13u64 {
            let leaf = all[usize::try_from(index).unwrap()];
            let path = inclusion_path(index, 13, &mut &all[..]).unwrap();
            let holds =
                |leaf, index, size, path: &[TreeHash], root| verify_inclusion(leaf, index, size, path, root).is_ok();
            for n in 0..path.len() {
                let mut other = path.clone();
                other[n].0[31] ^= 1;
                assert!(!holds(leaf, index, 13, &other, root), "hash {n} changed");
                other.remove(n);
                assert!(!holds(leaf, index, 13, &other, root), "hash {n} removed");
            }
            assert!(!holds(leaf, index, 13, &[path.clone(), vec![root]].concat(), root), "a hash more");
            assert!(!holds(TreeHash::empty(), index, 13, &path, root), "another leaf");
            assert!(!holds(leaf, index, 13, &path, TreeHash::empty()), "another root");
            assert!((0..16).all(|i| i == index || !holds(leaf, i, 13, &path, root)), "another index");
            assert!(!holds(leaf, index, 0, &path, root) && !holds(leaf, index, index, &path, root), "outside the tree");
        }
    }

    #[test]
    fn a_changed_cut_or_lengthened_consistency_proof_does_not_hold() {
        let all = leaves(13);
        let at = |size: u64| (size, by_definition::root(&all[..usize::try_from(size).unwrap()]));
        for (old, new) in (0..=13).flat_map(|new| (0..=new).map(move |old| (old, new))) {
            let path = consistency_path(old, new, &mut &all[..]).unwrap();
            let holds = |old, new, path: &[TreeHash]| verify_consistency(old, new, path).is_ok();
            for n in 0..path.len() {
                let mut other = path.clone();
                other[n].0[0] ^= 1;
                assert!(!holds(at(old), at(new), &other), "{old} {new}: hash {n} changed");
                other.remove(n);
                assert!(!holds(at(old), at(new), &other), "{old} {new}: hash {n} removed");
            }
            assert!(!holds(at(old), at(new), &[path.clone(), vec![at(13).1]].concat()), "{old} {new}: a hash more");
            assert!(!holds((old, TreeHash([7; 32])), at(new), &path), "{old} {new}: another beginning");
            assert!(old == 0 || !holds(at(old), (new, TreeHash([7; 32])), &path), "{old} {new}: another end");
            assert!(old == new || !holds(at(new), at(old), &path), "{old} {new}: run backwards");
        }
    }

    #[test]
    fn sizes_at_the_end_of_the_number_range_are_refused_and_do_not_overflow() {
        let hash = TreeHash::empty();
        let path = vec![hash; 70];
        for (a, b) in [(u64::MAX - 1, u64::MAX), (1 << 63, u64::MAX), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            assert!(verify_inclusion(hash, a, b, &path, hash).is_err());
            assert!(verify_consistency((a, hash), (b, hash), &path).is_err());
        }
    }

    #[test]
    fn a_hash_reads_back_from_its_text_and_only_from_that() {
        let hash = TreeHash::empty();
        assert_eq!(hash.to_string().parse::<TreeHash>().unwrap(), hash);
        for text in
            ["", "AAAA", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"]
        {
            assert!(text.parse::<TreeHash>().is_err(), "{text}");
        }
    }
}
