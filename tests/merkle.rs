//! Our tree and `ct-merkle`, an implementation by others, agree on random sizes: in memory, and as a store keeps it.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]

use ct_merkle::digest::Output;
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use keyward::audit::merkle::{self, Frontier, TreeHash};
use keyward::audit::record::Event;
use keyward::store::{Batch, Sqlite, Store, ask};
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

/// A log in a store, of random length, written in commits of random lengths; and its records.
async fn stored(commits: &[usize], place: &std::path::Path) -> (Sqlite, Vec<Vec<u8>>) {
    let store = Sqlite::open(&place.join("store.db"), true).await.unwrap();
    for count in commits {
        let events = (0..*count).map(|_| Event::LogClosed {}).collect();
        store.commit(Batch { writes: vec![], events }).await.unwrap();
    }
    let records = store.entries(&store.head().log, 0, u32::MAX).await.unwrap();
    (store, records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn what_a_store_keeps_of_its_tree_gives_equal_roots_and_proofs(
        commits in prop::collection::vec(1usize..300, 1..8),
        parts in prop::collection::vec((0.0f64..=1.0, 0.0f64..=1.0), 12),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let place = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let (store, records) = stored(&commits, place.path()).await;
            prop_assert_eq!(store.tree().1.root(), TreeHash((*theirs(&records).root().as_bytes()).into()));
            for (part, old_part) in parts {
                // Proofs at the end and at every size before it.
                let new = ((records.len() as f64 * part) as usize).max(1);
                let old = (new as f64 * old_part) as usize;
                let tree = theirs(&records[..new]);
                let root = ask(&store, |tree| merkle::root(new as u64, tree)).await.unwrap();
                prop_assert_eq!(root, TreeHash((*tree.root().as_bytes()).into()));
                let frontier = ask(&store, |tree| Frontier::of(new as u64, tree)).await.unwrap();
                prop_assert_eq!(frontier.root(), root);
                let index = old.min(new - 1);
                let path = ask(&store, |tree| merkle::inclusion_path(index as u64, new as u64, tree)).await.unwrap();
                prop_assert_eq!(path, hashes(tree.prove_inclusion(index).as_bytes()));
                let path = ask(&store, |tree| merkle::consistency_path(old as u64, new as u64, tree)).await.unwrap();
                if old > 0 {
                    prop_assert_eq!(path, hashes(tree.prove_consistency(new - old).as_bytes()));
                }
            }
            store.close().await;
            Ok(())
        })?;
    }
}
