//! Entries of the log, as the service `Audit` lists them.

use crate::audit::chain::ChainHash;
use crate::audit::filter::Filter;
use crate::audit::record::Record;
use crate::caller::Caller;
use crate::custody::Query;
use crate::error::{Error, Reason, Result};
use crate::grpc::{Door, check_name, page, timestamp, v1};
use crate::policy::{Asked, Operation, permit};

impl Door {
    /// A page of the log.
    pub(super) async fn entries(
        &self,
        caller: &Caller,
        request: &v1::ListEntriesRequest,
    ) -> Result<v1::ListEntriesResponse> {
        check_name(&request.parent)?;
        let permit = permit(caller, &Asked { operation: Operation::ReadLog, cluster: None, signs: None })?;
        let log = self.custody.store().head().log;
        if request.parent != "logs/-" && request.parent != format!("logs/{log}") {
            return Err(Error::new(Reason::NotFound, format!("this instance does not keep {}", request.parent))
                .hint("name logs/-, the log of this instance"));
        }
        let filter: Filter = request.filter.parse()?;
        let newest_first = match request.order_by.as_str() {
            "" | "seq" => false,
            "seq desc" => true,
            other => {
                return Err(Error::new(Reason::InvalidArgument, format!("{other:?} is no order of entries"))
                    .hint("order_by is \"seq\" or \"seq desc\""));
            }
        };
        let at = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| {
                Error::new(Reason::InvalidArgument, "page_token is none that this service gave")
                    .hint("begin with an empty page_token")
            })?),
        };
        let size = page(request.page_size, "").size;
        let found = self.custody.entries(permit, Query { filter: &filter, newest_first, at, size }).await?;
        Ok(v1::ListEntriesResponse {
            entries: found.records.into_iter().map(|(bytes, record)| entry(bytes, &record)).collect::<Result<_>>()?,
            next_page_token: found.next.map(|next| next.to_string()).unwrap_or_default(),
            log_size: number(found.size),
        })
    }
}

fn entry(bytes: Vec<u8>, record: &Record) -> Result<v1::Entry> {
    let event = &record.event;
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    Ok(v1::Entry {
        name: format!("logs/{}/entries/{}", record.log, record.seq),
        seq: number(record.seq),
        time: Some(timestamp(record.time_us()?)),
        kind: event.kind().to_owned(),
        caller: text(event.caller().map(|caller| caller.name.as_str())),
        key: text(event.key()),
        guid: text(event.guid()),
        outcome: text(event.outcome()),
        sha256: ChainHash::of(&bytes).to_string(),
        record: bytes,
    })
}

/// A place as the protocol counts: it stays far below 2^63.
pub(super) fn number(place: u64) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}
