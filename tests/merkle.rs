//! Our tree and `ct-merkle`, an implementation by others, agree on random sizes.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]

use ct_merkle::digest::Output;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use keyward::audit::merkle::{self, Frontier, TreeHash};
use proptest::prelude::*;
use sha2::Sha256;

fn theirs(records: &[Vec<u8>]) -> MemoryBackedTree<Sha256, Vec<u8>> {
    let mut tree = MemoryBackedTree::new();
    records.iter().for_each(|r| tree.push(r.clone()));
    tree
}
fn hashes(path: &[u8]) -> Vec<TreeHash> {
    path.chunks(32).map(|c| TreeHash(c.try_into().unwrap())).collect()
}
fn digest(h: TreeHash) -> Output<Sha256> {
    h.0.into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn roots_and_proofs_are_equal(new in 1usize..200, part in 0.0f64..=1.0, seed in any::<u8>()) {
        let records: Vec<Vec<u8>> = (0..new).map(|n| vec![seed; n % 7].into_iter().chain(n.to_be_bytes()).collect()).collect();
        let old = (new as f64 * part) as usize;
        let (tree, old_tree) = (theirs(&records), theirs(&records[..old]));
        let mut frontier = Frontier::default();
        let mut old_root = frontier.root();
        let leaves: Vec<TreeHash> = records.iter().map(|r| TreeHash::leaf(r)).collect();
        for (n, leaf) in leaves.iter().enumerate() {
            frontier.append(*leaf, |_, _, _| {});
            if n + 1 == old { old_root = frontier.root(); }
        }
        let root = frontier.root();
        prop_assert_eq!(root, TreeHash((*tree.root().as_bytes()).into()));
        prop_assert_eq!(old_root, TreeHash((*old_tree.root().as_bytes()).into()));

        let index = old.min(new - 1);
        let path = merkle::inclusion_path(index as u64, new as u64, &mut &leaves[..]).unwrap();
        let proof = tree.prove_inclusion(index);
        prop_assert_eq!(&path, &hashes(proof.as_bytes()));
        merkle::verify_inclusion(leaves[index], index as u64, new as u64, &hashes(proof.as_bytes()), root).unwrap();
        let digests: Vec<_> = path.iter().map(|h| digest(*h)).collect();
        tree.root().verify_inclusion(&records[index], index as u64, &InclusionProof::from_digests(digests.iter())).unwrap();

        let path = merkle::consistency_path(old as u64, new as u64, &mut &leaves[..]).unwrap();
        if old > 0 {
            prop_assert_eq!(&path, &hashes(tree.prove_consistency(new - old).as_bytes()));
            let digests: Vec<_> = path.iter().map(|h| digest(*h)).collect();
            let old_theirs = RootHash::<Sha256>::new(digest(old_root), old as u64);
            tree.root().verify_consistency(&old_theirs, &ConsistencyProof::from_digests(digests.iter())).unwrap();
        }
        merkle::verify_consistency((old as u64, old_root), (new as u64, root), &path).unwrap();
    }
}
