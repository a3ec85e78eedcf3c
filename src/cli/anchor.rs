//! `keyward audit re-anchor`: a person decides that the log goes on from a store that does not continue its anchor.

use serde_json::json;

use crate::audit::chain::ChainHash;
use crate::caller::Caller;
use crate::cli::{Global, output, prompt, runtime, token};
use crate::config::Config;
use crate::custody::{GivenUp, Loss, Taken};
use crate::error::{Error, Reason, Result};
use crate::serve::{self, Contradiction, Lock};

/// Shows what would be given up; does it if `confirm` repeats the words shown. `lift` names tokens that are held back in
/// that store, and are needed to sign it.
pub(super) fn re_anchor(confirm: Option<&str>, lift: &[String], global: &Global) -> Result<u8> {
    let config = Config::load(&global.data)?;
    let _lock = Lock::take(&config.directory)?;
    serve::prepare_modules(&config)?;
    let runtime = runtime()?;
    let Some(found) = runtime.block_on(serve::contradiction(&config))? else {
        return Err(Error::new(Reason::InvalidArgument, "the store continues its anchor: there is nothing to give up")
            .hint("start the service"));
    };
    let mut words = format!("re-anchor log {} at {}", found.log.log, found.log.size);
    for lost in &found.loss.logs {
        words += &format!(" without log {}", lost.log.log);
    }
    if !found.loss.logs.is_empty() || !found.loss.unrecorded.is_empty() {
        words += &format!(" taking {}", found.loss.taking());
    }
    show(&found, &words, confirm.is_some(), global);
    match confirm {
        None => return Ok(0),
        Some(confirm) if confirm == words => {}
        Some(_) => {
            return Err(Error::new(
                Reason::InvalidArgument,
                "these are not the words that were shown; nothing was done",
            )
            .hint(format!("--confirm \"{words}\"")));
        }
    }
    runtime.block_on(token::lift_all(&config, lift))?;
    let caller = Caller::LocalOperator { uid: rustix::process::geteuid().as_raw() };
    let done = runtime.block_on(serve::re_anchor(&config, &caller, found, prompt::pin));
    let anchor = done.map_err(|fault| match fault.reason() {
        Reason::PinLatched => fault.hint("find out why; if its PIN is right, say the same with --lift TOKEN beside it"),
        _ => fault,
    })?;
    if global.output == output::Format::Json {
        output::object(global.output, &json!({ "anchor": anchor }));
    } else {
        println!("the log goes on, and says who decided it; the new anchor is {}", config.file.audit.anchor.display());
        println!("next: tell whoever holds older checkpoints, then: keyward serve {}", config.directory.display());
    }
    Ok(0)
}

fn show(found: &Contradiction, words: &str, confirmed: bool, global: &Global) {
    let Contradiction { loss: Loss { why, logs, unrecorded }, log, anchor } = found;
    if global.output == output::Format::Json {
        if !confirmed {
            let shown = json!({
                "reason": why.reason().code(),
                "message": why.message(),
                "log": log.log,
                "records": log.size,
                "anchor": anchor,
                "given_up": logs.iter().map(lost).collect::<Vec<_>>(),
                "unrecorded": taken(unrecorded),
                "confirm": words,
            });
            output::object(global.output, &shown);
        }
        return;
    }
    println!("log      {}", log.log);
    println!("store    {} records", log.size);
    println!("fault    {} [{}]", output::clean(why.message()), why.reason().code());
    println!(
        "anchor   {}",
        output::clean(anchor.as_deref().and_then(|note| note.lines().nth(1)).unwrap_or("cannot be read"))
    );
    for GivenUp { log, why, objects } in logs {
        println!("gives up log {}, {} records: {}", log.log, log.size, output::clean(why.message()));
        print(objects);
    }
    if !unrecorded.is_empty() {
        println!("no record tells of these, or only of earlier versions:");
        print(unrecorded);
    }
    if !confirmed {
        if !logs.is_empty() {
            println!("Stop the instances of those logs first, if they still run.");
            println!("Nothing that those logs say counts any more.");
        }
        if !unrecorded.is_empty() || logs.iter().any(|lost| !lost.objects.is_empty()) {
            println!(
                "These objects are taken by your word: look at what they hold, with --output json (states, roles, public \
                 keys, certificates). A row that nobody can explain and no record tells of: delete it first."
            );
        }
        if found.loss.holds_back() {
            println!("A device among these is held back, whatever its row says; to use its token here: --lift TOKEN");
        }
        println!("What was signed and is not in this store stays lost. Nobody else is asked; the log will say so.");
        println!("next: keyward audit re-anchor --confirm \"{words}\"");
    }
}

/// A log that is given up, and what stands by it.
fn lost(lost: &GivenUp) -> serde_json::Value {
    json!({
        "log": lost.log.log,
        "records": lost.log.size,
        "reason": lost.why.reason().code(),
        "message": lost.why.message(),
        "objects": taken(&lost.objects),
    })
}

fn print(taken: &Taken) {
    for (kind, object) in taken.objects() {
        let (name, sha256) = (output::clean(&object.name), ChainHash::of(&object.body));
        println!("takes    {kind} {name} as it stands, version {}, sha256 {sha256}", object.version);
    }
}

fn taken(taken: &Taken) -> Vec<serde_json::Value> {
    let mut objects = Vec::new();
    for (kind, object) in taken.objects() {
        let sha256 = ChainHash::of(&object.body).to_string();
        let body = serde_json::from_slice::<serde_json::Value>(&object.body).unwrap_or_default();
        objects.push(json!({
            "kind": kind, "name": object.name, "version": object.version, "sha256": sha256, "body": body,
        }));
    }
    objects
}
