//! `keyward backup` and `keyward restore`: the records and the files that belong to them. No token and no PIN.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::chain::{ChainHash, Head};
use crate::audit::checkpoint::Checkpoint;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::note::Note;
use crate::audit::proof::LogProof;
use crate::audit::record::{Event, Record};
use crate::audit::trust::Trust;
use crate::caller::Caller;
use crate::cli::place::{Place, private_directory, unusable};
use crate::cli::{Global, connect, output, runtime};
use crate::config::{AUDIT_TRUST, Config, FILE, PinSource, Token};
use crate::error::{Error, Reason, Result};
use crate::grpc::client::failed;
use crate::grpc::v1;
use crate::policy::{self, Asked, Operation};
use crate::serve::{Lock, open_store};
use crate::store::{Batch, Kind, Sqlite, Store};

#[derive(clap::Args)]
pub(super) struct Backup {
    /// The directory to make; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Do without the signature of the running service: where it is stopped, or its token cannot be used
    #[arg(long)]
    unsigned: bool,
}

#[derive(clap::Args)]
pub(super) struct Restore {
    /// What `keyward backup` has made
    backup: PathBuf,
    /// The data directory to make; it must not exist, or be empty
    directory: PathBuf,
    /// The last checkpoint that is known of the log: the anchor file, or audit.checkpoint of an export
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// audit.trust as it was given out when the instance was made, not that of the backup
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// Take a backup for which nobody has signed: its log is verified all the same, its configuration is not
    #[arg(long)]
    unsigned: bool,
    /// Go on without so many signed records that the backup does not have: the number that the refusal says
    #[arg(long, value_name = "RECORDS", conflicts_with = "unsigned")]
    lose: Option<u64>,
}

/// The list of a backup's files.
const MANIFEST: &str = "backup.json";
/// The proof that the log has a record of that list.
const PROOF: &str = "backup.tlog-proof";
/// Records and objects that are read at a time.
const PAGE: u32 = 1000;

/// What a backup is of.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// Version of the program.
    keyward: String,
    /// Where the log ends in it.
    head: Head,
    /// SHA-256 of each file, hexadecimal, by its path in the data directory.
    files: BTreeMap<PathBuf, String>,
}

/// The files of a data directory that a backup has, the store first. All lie within the directory.
fn files(config: &Config) -> Result<Vec<PathBuf>> {
    let Some(store) = &config.file.store.sqlite else {
        return Err(Error::new(Reason::ConfigInvalid, "the records are in a PostgreSQL database").hint(
            "pg_dump --format=custom --file=keyward.dump URL, and keep the data directory: see docs/operations.md",
        ));
    };
    let files = vec![store.clone(), FILE.into(), AUDIT_TRUST.into(), config.file.tls.authority.clone()];
    let is_within = |path: &PathBuf| path.components().all(|part| matches!(part, Component::Normal(_)));
    match files.iter().find(|path| !is_within(path)) {
        None => Ok(files),
        Some(path) => {
            Err(Error::new(Reason::ConfigInvalid, format!("{} is not in the data directory", path.display()))
                .hint("a backup is of one directory: name the files in it by paths relative to it"))
        }
    }
}

pub(super) fn backup(args: &Backup, global: &Global) -> Result<u8> {
    let config = Config::load(&global.data)?;
    let names = files(&config)?;
    // Without a service the directory is held, so that none begins meanwhile.
    let _lock = args.unsigned.then(|| Lock::take(&config.directory).ok());
    let place = Place::begin(&args.out)?;
    let mut manifest =
        Manifest { keyward: env!("CARGO_PKG_VERSION").to_owned(), head: Head::empty(""), files: BTreeMap::new() };
    for name in names {
        let (from, to) = (config.path(&name), place.partial.join(&name));
        in_its_directory(&to)?;
        if Some(&name) == config.file.store.sqlite.as_ref() {
            manifest.head = runtime()?.block_on(Sqlite::copy(&from, &to))?;
        } else {
            fs::copy(&from, &to).map_err(|fault| unusable(&from, &fault))?;
        }
        manifest.files.insert(name, sha256(&to)?);
    }
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|fault| Error::new(Reason::Internal, "a backup's list cannot be written").detail(fault))?;
    output::write_new(&place.partial.join(MANIFEST), text.as_bytes(), 0o600)?;
    if !args.unsigned {
        let proof = runtime()?.block_on(sign(global, &text))?;
        output::write_new(&place.partial.join(PROOF), proof.as_bytes(), 0o600)?;
    }
    place.finish()?;
    let shown = json!({
        "backup": args.out.display().to_string(),
        "log": manifest.head.log,
        "records": manifest.head.size,
        "last_record": manifest.head.chain.to_string(),
        "signed": !args.unsigned,
    });
    output::object(global.output, &shown);
    if global.output == output::Format::Table {
        eprintln!("not in it: tokens and PINs; keep what they need in another place");
    }
    Ok(0)
}

/// Has the running service record the list and prove that it did.
async fn sign(global: &Global, manifest: &str) -> Result<String> {
    let asked = v1::RecordBackupRequest { manifest_sha256: ChainHash::of(manifest.as_bytes()).to_string() };
    let unsigned = "start the service, and make its token usable; or do without its signature: --unsigned";
    let connection = connect::operator(&global.data).await.map_err(|fault| fault.hint(unsigned))?;
    let answer = connection.audit().record_backup(asked).await;
    Ok(answer.map_err(|status| failed(status).hint(unsigned))?.into_inner().proof)
}

/// When a backup was signed for, by whoever is trusted.
fn signed(backup: &Path, manifest: &str, trust: &Trust) -> Result<String> {
    let path = backup.join(PROOF);
    if !path.exists() {
        return Err(Error::new(
            Reason::SignatureInvalid,
            format!("{} is not there: nobody signed for this backup", PROOF),
        )
        .hint("if it was made without a running service, say so: --unsigned; else find out who took it away"));
    }
    let proof: LogProof = read(&path)?.parse().map_err(|fault: Error| fault.while_doing(PROOF))?;
    let record = proof.extra.clone().unwrap_or_default();
    proof.verify(&record, trust).map_err(|fault| fault.while_doing(PROOF))?;
    let record = Record::read(&record)?;
    let target = format!("sha256:{}", ChainHash::of(manifest.as_bytes()));
    match record.event {
        Event::Performed { operation, target: of, .. } if operation == Operation::BackUp.name() && of == target => {
            Ok(record.time)
        }
        _ => Err(damaged(MANIFEST.as_ref()).hint("its list is not the one that was signed for: use another backup")),
    }
}

pub(super) fn restore(args: &Restore, global: &Global) -> Result<u8> {
    let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() };
    let permit = policy::permit(&caller, &Asked { operation: Operation::Restore, cluster: None, signs: None })?;
    let trust = trusted(args)?;
    let anchor = checkpoint(&args.checkpoint, &trust)?;
    let text = read(&args.backup.join(MANIFEST))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|fault| damaged(MANIFEST.as_ref()).detail(fault))?;
    of_one_log(&manifest.head, &anchor)?;
    let is_signed = !args.unsigned || args.backup.join(PROOF).exists();
    let signed = if is_signed { Some(signed(&args.backup, &text, &trust)?) } else { None };
    let lost = anchor.size.saturating_sub(manifest.head.size);
    if lost > 0 && args.lose != Some(lost) {
        return Err(rewound(manifest.head.size, anchor.size)
            .hint(format!("restore a later backup; if this is the last one, say what is lost: --lose {lost}")));
    }
    let config = Config::load(&args.backup)?;
    let names = files(&config)?;
    let place = Place::begin(&args.directory)?;
    for name in &names {
        let (from, to) = (args.backup.join(name), place.partial.join(name));
        in_its_directory(&to)?;
        fs::copy(&from, &to).map_err(|fault| unusable(&from, &fault))?;
        if manifest.files.get(name) != Some(&sha256(&to)?) {
            return Err(damaged(name));
        }
    }
    let restored = Config { directory: place.partial.clone(), ..config };
    let (head, note) = runtime()?.block_on(async {
        let store = open_store(&restored, false).await?;
        // What is signed beyond the backup is no anchor of what goes on from it; its own last checkpoint is.
        let held = match lost {
            0 => read(&args.checkpoint).map(|note| (anchor.clone(), note)),
            _ => last_checkpoint(store.as_ref(), &trust).await,
        };
        let checked = match held {
            Ok((held, note)) => check(store.as_ref(), &held).await.map(|head| (head, note)),
            Err(fault) => Err(fault),
        };
        let checked = match checked {
            Ok((head, note)) if head == manifest.head => {
                let event = Event::Restored {
                    caller: caller.note(),
                    rule: permit.rule().to_owned(),
                    records: head.size,
                    sha256: head.chain.to_string(),
                    manifest_sha256: ChainHash::of(text.as_bytes()).to_string(),
                    signed: signed.clone(),
                    checkpoint: read(&args.checkpoint)?,
                };
                store.commit(Batch::event(event)).await.map(|_| (head, note))
            }
            Ok(_) => Err(damaged(MANIFEST.as_ref())),
            Err(fault) => Err(fault),
        };
        store.close().await;
        checked
    })?;
    if restored.file.audit.anchor.is_relative() {
        output::write_new(&place.partial.join(&restored.file.audit.anchor), note.as_bytes(), 0o600)?;
    }
    let missing: Vec<String> = needed(&restored).iter().map(|path| path.display().to_string()).collect();
    place.finish()?;
    let shown = json!({
        "directory": args.directory.display().to_string(),
        "log": head.log,
        "records": head.size,
        "signed_records": anchor.size,
        "lost_records": lost,
        "backup_signed": signed,
        "to_be_put_there": missing,
    });
    output::object(global.output, &shown);
    Ok(0)
}

fn of_one_log(head: &Head, anchor: &Checkpoint) -> Result<()> {
    if head.log == anchor.log {
        return Ok(());
    }
    let words = format!("the checkpoint is of log {}, the backup of log {}", anchor.log, head.log);
    Err(Error::new(Reason::LogMissing, words).hint("name a checkpoint and a backup of one instance"))
}

fn rewound(records: u64, signed: u64) -> Error {
    let words = format!("the backup ends after {records} records, and {signed} were signed for");
    Error::new(Reason::StoreRewound, words)
}

/// The last checkpoint that a backup has of its log, and its text.
async fn last_checkpoint(store: &dyn Store, trust: &Trust) -> Result<(Checkpoint, String)> {
    let Some(text) = store.last_checkpoint(&store.head().log).await? else {
        return Err(Error::new(Reason::CheckpointBroken, "the backup has no checkpoint").hint("restore another backup"));
    };
    let checkpoint = text.parse().and_then(|note| trust.checkpoint(&note));
    Ok((checkpoint.map_err(|fault| fault.while_doing("the last checkpoint of the backup"))?, text))
}

/// Reads the whole log and every object, and holds them against each other and against the checkpoint.
async fn check(store: &dyn Store, anchor: &Checkpoint) -> Result<Head> {
    let head = store.head();
    let wrong = |words: String| Error::new(Reason::RecordBroken, words);
    of_one_log(&head, anchor)?;
    if head.size < anchor.size {
        return Err(rewound(head.size, anchor.size).hint("restore another backup"));
    }
    let (mut at, mut frontier) = (Head::empty(head.log.clone()), Frontier::default());
    while at.size < head.size {
        let records = store.entries(&head.log, at.size, PAGE).await?;
        if records.is_empty() {
            return Err(wrong(format!("record {} is missing from the backup", at.size)));
        }
        for record in &records {
            at.follow(record).map_err(|fault| fault.while_doing(format!("record {}", at.size)))?;
            frontier.append(TreeHash::leaf(record), |_, _, _| {});
            if at.size == anchor.size && (frontier.root(), at.chain) != (anchor.root, anchor.chain) {
                let words =
                    format!("the first {} records of the backup are others than those that were signed", at.size);
                return Err(
                    Error::new(Reason::StoreForked, words).hint("restore another backup; find out who made this")
                );
            }
        }
    }
    if at != head {
        return Err(wrong("the records of the backup do not lead to its head".to_owned()));
    }
    for kind in Kind::ALL {
        let mut after = String::new();
        while let Some(last) = store.list(*kind, "", &after, PAGE).await?.pop() {
            after = last.name;
        }
    }
    Ok(head)
}

/// A checkpoint that the trusted keys have signed.
fn checkpoint(checkpoint: &Path, trust: &Trust) -> Result<Checkpoint> {
    let note: Note = read(checkpoint)?.parse().map_err(|fault: Error| fault.while_doing(checkpoint.display()))?;
    trust.checkpoint(&note).map_err(|fault| fault.while_doing(checkpoint.display()))
}

/// The keys that are trusted, and those to which they handed over before the backup was made.
fn trusted(args: &Restore) -> Result<Trust> {
    let given: Trust = read(&args.trust)?.parse().map_err(|fault: Error| fault.while_doing(args.trust.display()))?;
    let later = read(&args.backup.join(AUDIT_TRUST))?.parse();
    Ok(given.followed(Some(later.map_err(|fault: Error| damaged(AUDIT_TRUST.as_ref()).detail(fault))?)))
}

/// What the configuration names and no backup has.
fn needed(config: &Config) -> Vec<PathBuf> {
    let pin = |token: &Token| match &token.pin {
        PinSource::File(file) => Some(file.clone()),
        _ => None,
    };
    let tokens = config.file.tokens.iter().flat_map(Token::devices);
    tokens.flat_map(|token| token.directory.clone().into_iter().chain(pin(&token))).collect()
}

fn in_its_directory(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.exists() => private_directory(parent),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|fault| output::unreadable(path, &fault, "name the files as they were made"))
}

fn sha256(path: &Path) -> Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let file = fs::File::open(path).map_err(|fault| unusable(path, &fault))?;
    let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
    loop {
        let part = std::io::BufRead::fill_buf(&mut reader).map_err(|fault| unusable(path, &fault))?;
        if part.is_empty() {
            return Ok(hex::encode(context.finish()));
        }
        context.update(part);
        let length = part.len();
        std::io::BufRead::consume(&mut reader, length);
    }
}

fn damaged(name: &Path) -> Error {
    Error::new(Reason::RecordBroken, format!("{} of the backup is not what was written", name.display()))
        .hint("use another backup")
}
