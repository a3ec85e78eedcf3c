//! `keyward audit list` and `tail`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::filter::{Filter, read_time};
use crate::cli::{Global, connect, output, stop_signal};
use crate::error::{Error, Reason, Result};
use crate::grpc::client::{AuditClient, Channel, failed};
use crate::grpc::v1;

/// Pause between two looks at a log that is followed, in milliseconds.
const FOLLOW_MS: u64 = 500;

/// Which records.
#[derive(clap::Args)]
struct Which {
    /// Written at this time or later, such as 2026-11-24T09:30:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Written before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Kind of event, such as intent, outcome, refusal
    #[arg(long)]
    kind: Option<String>,
    /// Who asked: resource name, local-operator, address or certificate's SHA-256
    #[arg(long)]
    caller: Option<String>,
    /// Resource name of the key
    #[arg(long)]
    key: Option<String>,
    /// GUID of the document, or of the server in an enrollment
    #[arg(long)]
    guid: Option<String>,
    /// What became of it: done, refused or unknown
    #[arg(long, value_parser = ["done", "refused", "unknown"], hide_possible_values = true)]
    outcome: Option<String>,
}

#[derive(clap::Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    which: Which,
    /// The newest first
    #[arg(long)]
    newest_first: bool,
    /// Most records to list
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Go on where an earlier list ended: the number that it told
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
}

#[derive(clap::Args)]
pub(in crate::cli) struct Tail {
    #[command(flatten)]
    which: Which,
    /// How many of the last records
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 10)]
    lines: u32,
    /// Show what comes, until it is interrupted
    #[arg(long, short)]
    follow: bool,
}

impl Which {
    fn filter(&self) -> Result<Filter> {
        let time = |text: &Option<String>| text.as_deref().map(read_time).transpose();
        let filter = Filter {
            from_us: time(&self.from)?,
            until_us: time(&self.until)?,
            kind: self.kind.clone(),
            caller: self.caller.clone(),
            key: self.key.clone(),
            guid: self.guid.clone(),
            outcome: self.outcome.clone(),
            ..Filter::default()
        };
        // A value that the filter's text cannot carry is found here, with words about the option.
        match filter.to_string().parse::<Filter>() {
            Ok(read) if read == filter => Ok(filter),
            _ => Err(Error::new(
                Reason::InvalidArgument,
                "a value to look for is not empty, and has no quotes or backslashes",
            )),
        }
    }
}

/// A walk through pages.
struct Pages {
    client: AuditClient<Channel>,
    request: v1::ListEntriesRequest,
}

impl Pages {
    async fn begin(filter: &Filter, newest_first: bool, global: &Global) -> Result<Self> {
        let client = connect::operator(&global.data).await?.audit();
        let order_by = if newest_first { "seq desc" } else { "seq" }.to_owned();
        let request = v1::ListEntriesRequest {
            parent: "logs/-".to_owned(),
            filter: filter.to_string(),
            order_by,
            ..Default::default()
        };
        Ok(Pages { client, request })
    }

    /// The next page, of at most `most` entries. `None` after the last.
    async fn next(&mut self, most: u32) -> Result<v1::ListEntriesResponse> {
        self.request.page_size = i32::try_from(most.min(1000)).unwrap_or(1000);
        let page = self.client.list_entries(self.request.clone()).await.map_err(failed)?.into_inner();
        self.request.page_token.clone_from(&page.next_page_token);
        Ok(page)
    }

    /// All entries up to a number; and the log's size when they were looked for.
    async fn collect(&mut self, most: u32) -> Result<(Vec<v1::Entry>, i64)> {
        let (mut entries, mut size) = (Vec::new(), 0);
        while entries.len() < most as usize {
            let page = self.next(most - u32::try_from(entries.len()).unwrap_or(u32::MAX)).await?;
            entries.extend(page.entries);
            size = page.log_size;
            if self.request.page_token.is_empty() {
                break;
            }
        }
        Ok((entries, size))
    }
}

pub(super) async fn list(args: &List, global: &Global) -> Result<()> {
    let filter = args.which.filter()?;
    let mut pages = Pages::begin(&filter, args.newest_first, global).await?;
    pages.request.page_token.clone_from(&args.page_token);
    let (entries, _) = pages.collect(args.limit).await?;
    let more = pages.request.page_token;
    if global.output == output::Format::Json {
        let shown: Vec<Value> = entries.iter().map(full).collect::<Result<_>>()?;
        output::object(global.output, &json!({ "entries": shown, "next_page_token": more }));
        return Ok(());
    }
    entries.iter().for_each(|entry| println!("{}", line(entry)));
    if entries.is_empty() {
        println!("none");
    }
    if !more.is_empty() {
        eprintln!("next: more may follow; go on with --page-token {more}");
    }
    Ok(())
}

pub(super) async fn tail(args: &Tail, global: &Global) -> Result<()> {
    let mut filter = args.which.filter()?;
    let mut pages = Pages::begin(&filter, true, global).await?;
    let (mut entries, mut seen) = pages.collect(args.lines).await?;
    if args.lines == 0 {
        seen = pages.next(1).await?.log_size;
    }
    entries.reverse();
    show(&entries, global)?;
    if !args.follow {
        return Ok(());
    }
    let stop = stop_signal()?;
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(FOLLOW_MS)) => {}
        }
        filter.from_seq = u64::try_from(seen).ok();
        let mut pages = Pages { client: pages.client.clone(), request: pages.request.clone() };
        pages.request.filter = filter.to_string();
        pages.request.order_by.clear();
        pages.request.page_token.clear();
        let (entries, size) = pages.collect(u32::MAX).await?;
        show(&entries, global)?;
        seen = size;
    }
}

pub(super) async fn sinks(global: &Global) -> Result<()> {
    let mut client = connect::operator(&global.data).await?.audit();
    let found = client.list_sinks(v1::ListSinksRequest {}).await.map_err(failed)?.into_inner();
    let row = |sink: &v1::Sink| {
        json!({
            "name": sink.name,
            "place": sink.place,
            "next_seq": sink.next_seq,
            "behind": sink.behind,
            "failing": if sink.failing.is_empty() { Value::Null } else { sink.failing.as_str().into() },
        })
    };
    output::list(global.output, &found.sinks.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

/// Prints entries a line each.
fn show(entries: &[v1::Entry], global: &Global) -> Result<()> {
    for entry in entries {
        match global.output {
            output::Format::Json => println!("{}", full(entry)?),
            output::Format::Table => println!("{}", line(entry)),
        }
    }
    Ok(())
}

/// An entry for programs: the record as it is stored, and its hash.
fn full(entry: &v1::Entry) -> Result<Value> {
    let record: Value = serde_json::from_slice(&entry.record)
        .map_err(|fault| Error::new(Reason::PeerRefused, "the service sent what is no record").detail(fault))?;
    Ok(json!({ "name": entry.name, "sha256": entry.sha256, "record": record }))
}

/// An entry for people: place, time, kind, who, and what it says.
fn line(entry: &v1::Entry) -> String {
    let said = serde_json::from_slice::<Value>(&entry.record).ok().map(|record| words(&record["event"]));
    let time = output::time(entry.time);
    output::clean(&format!("{:>8}  {time}  {:<16}  {}", entry.seq, entry.kind, said.unwrap_or_default()))
}

/// What an event says but its kind: names and values, in the order of the record.
fn words(event: &Value) -> String {
    const VALUE_CHARS_MAX: usize = 80;
    let Value::Object(members) = event else { return event.to_string() };
    let said = members.iter().filter(|(name, _)| *name != "type").map(|(name, value)| match value {
        Value::Object(_) if name == "caller" => format!("by {}", plain(&value["name"])),
        Value::Object(_) => words(value),
        Value::Array(items) => format!("{name} of {}", items.len()),
        _ => {
            let value = plain(value);
            let cut: String = value.chars().take(VALUE_CHARS_MAX).collect();
            format!("{name} {cut}{}", if cut.len() < value.len() { "…" } else { "" })
        }
    });
    said.collect::<Vec<_>>().join(", ")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
