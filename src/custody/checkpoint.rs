//! Signed statements of where the log ends and which key signs for it: when they are made, what is checked before, and
//! what no longer happens while they cannot be made.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::audit::chain::Head;
use crate::audit::checkpoint::{self, Checkpoint, OtherHead};
use crate::audit::line::Line;
use crate::audit::merkle::{Frontier, TreeHash, consistency_path};
use crate::audit::note::{Note, VerifierKey};
use crate::audit::others::Others;
use crate::audit::trust::Trust;
use crate::custody::anchor::LogFiles;
use crate::custody::{Custody, DEADLINE_S, GivenUp, Held, KeyRecord, others, performed, vouch};
use crate::error::{Error, Reason, Result};
use crate::faultpoint;
use crate::key::KeyState;
use crate::policy::Permit;
use crate::store::{Batch, Kind, Write, ask};

/// Resource name of the key that signs checkpoints; later ones have a number behind it.
pub const AUDIT_KEY: &str = "keys/audit";
/// How many times the pace of checkpoints records may stand unsigned, before nothing more is signed with other keys.
const OVERDUE: u32 = 10;
/// How long to wait for a place in the token's queue before asking again, in milliseconds.
const AGAIN_MS: u64 = 20;
/// Records that one read takes while they are checked.
const PAGE_RECORDS: u64 = 1000;
/// Most audit keys that are looked through: those of the history, and some that were made and never used.
const KEYS_MAX: u32 = 200;

/// How often checkpoints are made while the log grows.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// After so many records.
    pub records: u64,
    /// After so much time, if fewer came.
    pub time: Duration,
}

/// What an instance knows of its signed log.
pub struct Ledger {
    pub(super) files: LogFiles,
    pace: Pace,
    trust: RwLock<Option<Trust>>,
    /// The last checkpoint. Held while the next one is made.
    last: tokio::sync::Mutex<Option<Signed>>,
    progress: RwLock<Progress>,
    /// What is known of the other logs of the store.
    pub(super) others: others::Others,
}

/// How far the log is signed.
#[derive(Default)]
struct Progress {
    signed: u64,
    /// Since when there are records behind that.
    unsigned_since: Option<Instant>,
    /// Why nothing may be signed with other keys, if so.
    halted: Option<Error>,
    /// What was signed last of the other logs.
    named: Vec<OtherHead>,
    /// Whether every audit key that has handed over is recorded as archived, as far as this run knows.
    retired: bool,
}

/// A checkpoint of this log and the tree that it was signed over.
struct Signed {
    checkpoint: Checkpoint,
    tree: Frontier,
    note: Note,
    /// Whether it is in the store.
    kept: bool,
    /// Whether it is in the anchor too, so that it may be shown.
    anchored: bool,
}

/// Which intents the records behind a checkpoint open and close.
#[derive(Default)]
struct Intents {
    /// Where they begin.
    from: u64,
    open: BTreeSet<u64>,
    /// Those from before that they close.
    earlier: BTreeSet<u64>,
}

impl Intents {
    /// Takes the next record.
    fn follow(&mut self, seq: u64, record: &[u8]) -> Result<()> {
        let line = Line::read(record)?;
        let fits = match (&*line.kind, line.intent) {
            ("intent", _) => self.open.insert(seq),
            ("outcome", Some(intent)) if intent < self.from => self.earlier.insert(intent),
            ("outcome", intent) => intent.is_some_and(|intent| self.open.remove(&intent)),
            _ => true,
        };
        let wrong = || Error::new(Reason::RecordBroken, "closes an intent that is not open");
        fits.then_some(()).ok_or_else(wrong)
    }
}

impl Ledger {
    /// Reads the history of audit keys, if the instance has one yet.
    ///
    /// # Errors
    /// As [`LogFiles::read_trust`].
    pub fn open(files: LogFiles, pace: Pace) -> Result<Self> {
        let trust = RwLock::new(files.read_trust()?);
        Ok(Ledger {
            files,
            pace,
            trust,
            last: tokio::sync::Mutex::default(),
            progress: RwLock::default(),
            others: others::Others::default(),
        })
    }

    /// The same in a run by which a person gives up these other logs.
    #[must_use]
    pub fn without(mut self, given_up: &[GivenUp]) -> Self {
        self.others.pass_over(given_up.iter().map(|lost| lost.log.log.clone()).collect());
        self
    }

    /// The same in a run that follows other logs from where they were followed to when the store was opened.
    #[must_use]
    pub fn following(mut self, ends: Vec<Head>) -> Self {
        self.others.follow_from(ends);
        self
    }

    /// Ends all acts with keys of this run.
    pub(super) fn halt(&self, fault: &Error) {
        let before = self.progress(|progress| progress.halted.replace(fault.clone()));
        if before.is_none_or(|before| before.reason() != fault.reason()) {
            tracing::error!(?fault, "the log does not hold; nothing more is signed");
        }
    }

    fn progress<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(&mut self.progress.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Resource name of the key that signs checkpoints of another log beside it.
#[must_use]
pub fn audit_key_beside(log: &str) -> String {
    format!("{AUDIT_KEY}-{log}")
}

impl Custody {
    /// The history of this log's audit keys.
    ///
    /// # Errors
    /// `CONFIG_INVALID` if this instance has none yet.
    pub fn trust(&self) -> Result<Trust> {
        let trust = self.ledger.trust.read().unwrap_or_else(PoisonError::into_inner).clone();
        trust.ok_or_else(|| {
            Error::new(Reason::ConfigInvalid, "this instance has no audit key: it was never founded whole")
        })
    }

    /// Begins the history of audit keys: its first entry, which verifiers are given beforehand.
    ///
    /// # Errors
    /// The token's; `NOT_FOUND` if the instance has no audit key.
    pub async fn begin_trust(&self, deadline: Instant) -> Result<Trust> {
        let key = match self.key(&audit_key_beside(&self.store.head().log)).await {
            Err(fault) if fault.reason() == Reason::NotFound => self.key(AUDIT_KEY).await?,
            found => found?,
        };
        let log = self.store.head().log;
        let verifier = VerifierKey::new(&checkpoint::origin(&log), &key.record.public)?;
        let trust: Trust =
            self.sign_note(&key, Trust::first(&log, 0, &verifier)?, deadline).await?.to_string().parse()?;
        self.set_trust(trust.clone());
        Ok(trust)
    }

    pub(super) fn set_trust(&self, trust: Trust) {
        *self.ledger.trust.write().unwrap_or_else(PoisonError::into_inner) = Some(trust);
    }

    /// The key that signs checkpoints now.
    pub(super) async fn audit_key(&self) -> Result<Arc<Held>> {
        let public = self.trust()?.key().public_key();
        let mut none =
            Error::new(Reason::KeyMissing, "the store has no record of the audit key that audit.trust names last");
        for name in self.store.names(Kind::Key, AUDIT_KEY, "", KEYS_MAX).await? {
            match self.key(&name).await {
                Ok(key) if key.record.public == public => return Ok(key),
                Ok(_) => {}
                // It may be that of another log.
                Err(fault) if fault.reason() == Reason::ObjectAltered => none = fault,
                Err(fault) => return Err(fault),
            }
        }
        Err(none)
    }

    /// The checkpoint over the log as it ends now: the last one while the log has not grown since. A new one is signed
    /// only over records that were read back and lead from what was signed last to this end; it is kept in the store and
    /// in the anchor before anybody sees it.
    ///
    /// # Errors
    /// `RECORD_BROKEN` if the stored records are not those that the tree was made of, or do not continue the last
    /// checkpoint: from then on nothing is signed. The token's; those of the store and of the anchor's file.
    pub async fn checkpoint(&self) -> Result<Note> {
        let mut last = self.ledger.last.lock().await;
        if last.is_none() {
            *last = self.last_signed().await?;
        }
        self.sign_end(&mut last).await
    }

    /// A checkpoint over at least `size` records: the last one, if it is.
    pub(super) async fn checkpoint_of(&self, size: u64) -> Result<Note> {
        let mut last = self.ledger.last.lock().await;
        if last.is_none() {
            *last = self.last_signed().await?;
        }
        match last.as_mut().filter(|signed| signed.checkpoint.size >= size) {
            Some(signed) => self.publish(signed).await,
            None => self.sign_end(&mut last).await,
        }
    }

    /// Signs the log from its first record on, whatever was signed of it before.
    ///
    /// # Errors
    /// As [`Custody::checkpoint`].
    pub(super) async fn sign_anew(&self) -> Result<Note> {
        let mut last = self.ledger.last.lock().await;
        *last = None;
        self.sign_end(&mut last).await
    }

    async fn sign_end(&self, last: &mut Option<Signed>) -> Result<Note> {
        let (head, tree) = self.store.tree();
        if let Some(signed) = last.as_mut().filter(|signed| signed.tree == tree) {
            return self.publish(signed).await;
        }
        let checkpoint = match self.check_records(last.as_ref(), &head, &tree).await {
            Err(fault) if fault.reason() == Reason::RecordBroken => {
                self.ledger.halt(&fault);
                return Err(fault);
            }
            checked => checked?,
        };
        let note = self.sign_under_load(&checkpoint).await?;
        // Whatever happens to it from here on, this size is signed.
        let signed = last.insert(Signed { checkpoint, tree, note, kept: false, anchored: false });
        self.publish(signed).await
    }

    /// Waits for a place in the token's queue: no load keeps the log from being signed.
    async fn sign_under_load(&self, checkpoint: &Checkpoint) -> Result<Note> {
        let (key, note) = (self.audit_key().await?, checkpoint.note()?);
        let deadline = Instant::now() + Duration::from_secs(DEADLINE_S);
        loop {
            match self.sign_note(&key, note.clone(), deadline).await {
                Err(busy) if busy.reason() == Reason::TokenBusy && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
                }
                done => return done,
            }
        }
    }

    /// Hands the log over to a new audit key: the old one signs the end of what it answers for, both sign the new entry of
    /// the history, the new one signs what comes after. Gives the history.
    ///
    /// # Errors
    /// The token's; those of the store and of the files.
    pub async fn hand_over(&self, permit: Permit, to: &str) -> Result<Trust> {
        let _guard = self.may_act().await?;
        let mut last = self.ledger.last.lock().await;
        if last.is_none() {
            *last = self.last_signed().await?;
        }
        // Who did it is durable, and signed for by the old key, before the new one signs anything.
        self.store.commit(Batch::event(performed(permit, to))).await?;
        let signed: Checkpoint = self.sign_end(&mut last).await?.text().parse()?;
        let (old, new, mut trust) = (self.audit_key().await?, self.key(to).await?, self.trust()?);
        let verifier = VerifierKey::new(&checkpoint::origin(&signed.log), &new.record.public)?;
        let mut entry = trust.hand_over(signed.size, &verifier)?;
        for key in [&old, &new] {
            entry = self.sign_note(key, entry, Instant::now() + Duration::from_secs(DEADLINE_S)).await?;
        }
        trust.add(entry)?;
        // From here on the new key signs, whatever else goes wrong: what cannot be done now is done later.
        self.ledger.files.write_trust(&trust)?;
        self.set_trust(trust.clone());
        self.ledger.progress(|progress| progress.retired = false);
        faultpoint::reach("after-trust", "rotate-audit-key").await;
        self.retire().await;
        if let Err(fault) = self.sign_end(&mut last).await {
            tracing::warn!(?fault, "the new audit key has signed nothing yet");
        }
        Ok(trust)
    }

    /// Archives the audit keys that have handed over to another one, if that is not known to be done.
    async fn retire(&self) {
        if self.ledger.progress(|progress| progress.retired) {
            return;
        }
        match self.archive_all_but_the_last().await {
            Ok(()) => self.ledger.progress(|progress| progress.retired = true),
            Err(fault) => tracing::warn!(?fault, "an audit key that signs no more is not archived yet"),
        }
    }

    async fn archive_all_but_the_last(&self) -> Result<()> {
        let Ok(trust) = self.trust() else { return Ok(()) };
        let last = trust.key().public_key();
        let before: Vec<_> = trust.keys().map(VerifierKey::public_key).filter(|public| *public != last).collect();
        if before.is_empty() {
            return Ok(());
        }
        for name in self.store.names(Kind::Key, AUDIT_KEY, "", KEYS_MAX).await? {
            let key = match self.key(&name).await {
                Ok(key) if before.contains(&key.record.public) => key,
                Err(fault) if fault.reason() != Reason::ObjectAltered => return Err(fault),
                _ => continue,
            };
            let record = key.record.clone();
            let archived = match (record.state, record.before_missing) {
                (KeyState::Active, _) => KeyRecord { state: KeyState::Archived, ..record },
                // It is, when its token shows it again.
                (KeyState::Missing, Some(KeyState::Active)) => {
                    KeyRecord { before_missing: Some(KeyState::Archived), ..record }
                }
                _ => continue,
            };
            let writes = vec![Write::new(Kind::Key, &name, key.version, &archived)?];
            self.store.commit(Batch { writes, events: Vec::new() }).await?;
        }
        Ok(())
    }

    /// A name for the next audit key, and the token of the present one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn next_audit_key(&self) -> Result<(String, String)> {
        let token = self.audit_key().await?.record.token.clone();
        let count = self.store.names(Kind::Key, AUDIT_KEY, "", KEYS_MAX).await?.len();
        Ok((format!("{AUDIT_KEY}-{}", count + 1), token))
    }

    /// Keeps a signed checkpoint in the store and outside of it, where it is not yet; only then may it be shown.
    async fn publish(&self, signed: &mut Signed) -> Result<Note> {
        let text = signed.note.to_string();
        // A commit that was said to have failed may have happened.
        if !signed.kept && self.store.last_checkpoint(&self.store.head().log).await?.as_ref() != Some(&text) {
            self.store.keep_checkpoint(&text).await?;
        }
        signed.kept = true;
        faultpoint::reach("after-kept", "checkpoint").await;
        if !signed.anchored {
            let (files, note) = (self.ledger.files.clone(), signed.note.clone());
            let written = tokio::task::spawn_blocking(move || files.write_anchor(&note)).await;
            written.map_err(|fault| Error::new(Reason::Internal, "the anchor was not written").detail(fault))??;
            signed.anchored = true;
            self.ledger.progress(|progress| {
                progress.signed = signed.checkpoint.size;
                progress.named.clone_from(&signed.checkpoint.others);
                progress.unsigned_since = None;
            });
        }
        Ok(signed.note.clone())
    }

    /// What was signed last of another log in this run.
    pub(super) fn signed_for(&self, log: &str) -> Option<OtherHead> {
        self.ledger.progress(|progress| progress.named.iter().find(|other| other.log == log).cloned())
    }

    /// The checkpoint that was kept last, with the tree that the store has there.
    async fn last_signed(&self) -> Result<Option<Signed>> {
        let Some(text) = self.store.last_checkpoint(&self.store.head().log).await? else { return Ok(None) };
        let note: Note = text.parse()?;
        let checkpoint = self.trust()?.checkpoint(&note)?;
        let tree = ask(self.store.as_ref(), |tree| Frontier::of(checkpoint.size, tree)).await?;
        self.ledger.progress(|progress| {
            progress.signed = checkpoint.size;
            progress.named.clone_from(&checkpoint.others);
        });
        // It may be that the run before had no time to write the anchor.
        Ok(Some(Signed { checkpoint, tree, note, kept: true, anchored: false }))
    }

    /// Reads the records behind the last checkpoint back and requires that they lead from its tree to this end. Gives
    /// the checkpoint to be signed.
    async fn check_records(&self, last: Option<&Signed>, head: &Head, tree: &Frontier) -> Result<Checkpoint> {
        let broken = |words: &str| Err(Error::new(Reason::RecordBroken, format!("before a checkpoint: {words}")));
        let mut at = last.map(|signed| signed.tree.clone()).unwrap_or_default();
        if last.is_some_and(|signed| signed.tree.root() != signed.checkpoint.root) {
            return broken("the stored tree is not the one that was signed last");
        }
        let mut told = Others::default();
        let mut end = Head::empty(head.log.clone());
        if let Some(Signed { checkpoint: Checkpoint { size, chain, .. }, .. }) = last {
            end = Head { size: *size, chain: *chain, ..end };
        }
        let mut intents = Intents { from: end.size, ..Intents::default() };
        let mut wrong = None;
        while at.size() < head.size {
            let count = (head.size - at.size()).min(PAGE_RECORDS);
            for record in self.records(at.size(), u32::try_from(count).unwrap_or(u32::MAX)).await? {
                if wrong.is_none() {
                    let seq = end.size;
                    let fits = end.follow(&record).and_then(|()| intents.follow(seq, &record));
                    wrong = fits.err().map(|fault| format!("record {seq} {}", fault.message()));
                }
                at.append(TreeHash::leaf(&record), |_, _, _| {});
                told.hear(&record);
            }
        }
        if at != *tree {
            return broken("the stored records are not those that were committed");
        }
        if let Some(words) = wrong {
            return broken(&words);
        }
        if end.chain != head.chain {
            return broken("the stored records do not lead to the log's end");
        }
        for seq in intents.earlier {
            let record = self.records(seq, 1).await?;
            if Line::read(&record[0])?.kind != "intent" {
                return broken(&format!("an outcome closes record {seq}, which is no intent"));
            }
        }
        let heads = self.store.heads().await?;
        if let Some(words) = told.lost(heads.iter().map(|head| (head.log.as_str(), head.size))) {
            return broken(&words);
        }
        let before = last.map(|signed| signed.checkpoint.others.as_slice()).unwrap_or_default();
        for other in before {
            vouch::had(self.store.as_ref(), other).await.map_err(|fault| self.judged(fault))?;
        }
        // Of a log that does not count nothing is stated, unless it was stated before, or these records tell of it.
        let stated = before.iter().map(|other| other.log.as_str()).chain(told.last().map(|(log, ..)| log));
        let stated: BTreeSet<&str> = stated.collect();
        let counts = |log: &str| self.ledger.others.count(log) || stated.contains(log);
        let others = heads.into_iter().filter(|other| other.log != head.log && counts(&other.log));
        let others = others.map(|Head { log, size, chain, .. }| OtherHead { log, size, chain }).collect();
        let (log, chain) = (head.log.clone(), head.chain);
        let now = Checkpoint { log, size: head.size, root: tree.root(), chain, others };
        if let Some(Signed { checkpoint, .. }) = last {
            let path = ask(self.store.as_ref(), |source| consistency_path(checkpoint.size, now.size, source)).await?;
            if let Err(fault) = now.continues(checkpoint, &path) {
                return broken(fault.message());
            }
        }
        Ok(now)
    }

    /// Makes a checkpoint if one is due, archives audit keys that have handed over and were not archived then, and sees
    /// to it that nothing is signed with other keys while records stand unsigned for too long. To be called every
    /// second or so.
    pub async fn keep_signed(&self) {
        self.retire().await;
        let Pace { records, time } = self.ledger.pace;
        let size = self.store.head().size;
        let (unsigned, since) = self.ledger.progress(|progress| {
            let unsigned = size.saturating_sub(progress.signed);
            let since = (unsigned > 0).then(|| *progress.unsigned_since.get_or_insert_with(Instant::now));
            (unsigned, since.map(|since| since.elapsed()).unwrap_or_default())
        });
        if unsigned < records && since < time {
            return;
        }
        match self.checkpoint().await {
            Ok(_) => self.ledger.progress(|progress| {
                let overdue = |fault: &Error| fault.reason() == Reason::CheckpointOverdue;
                progress.halted = progress.halted.take().filter(|fault| !overdue(fault));
            }),
            Err(fault) => {
                tracing::error!(?fault, unsigned, "no checkpoint could be made");
                if unsigned >= records * u64::from(OVERDUE) || since >= time * OVERDUE {
                    let words = format!("{unsigned} records stand unsigned: {fault}");
                    let overdue = Error::new(Reason::CheckpointOverdue, words)
                        .hint(fault.next_step().unwrap_or("find out why the log cannot be signed").to_owned());
                    self.ledger.progress(|progress| {
                        progress.halted.get_or_insert(overdue);
                    });
                }
            }
        }
    }

    /// Whether acts with keys may be done, as far as the log is concerned.
    ///
    /// # Errors
    /// `RECORD_BROKEN` once a check of the log failed, `CHECKPOINT_OVERDUE` while too much stands unsigned.
    pub fn require_signed(&self) -> Result<()> {
        self.ledger.progress(|progress| progress.halted.clone()).map_or(Ok(()), Err)
    }
}
