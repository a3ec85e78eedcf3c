//! The one mapping between our errors and gRPC statuses, in both directions.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Error, Reason};

/// `ErrorInfo.domain` of all our errors.
pub const DOMAIN: &str = "keyward.v1";
/// Longest message or hint that is sent, in bytes. Together they must fit into the headers that a client takes (16 KiB
/// with most), in which each byte may become three.
const WORDS_BYTES_MAX: usize = 1024;
/// When to come back after a failure that passes by itself and does not say when, in milliseconds.
const RETRY_MS: u64 = 500;
/// When to come back after a failure that lasts until a person acts, in milliseconds.
const RETRY_MENDED_MS: u64 = 30_000;

/// The canonical code of a reason.
#[must_use]
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::Unauthenticated => Code::Unauthenticated,
        Reason::PermissionDenied => Code::PermissionDenied,
        Reason::NotFound => Code::NotFound,
        Reason::AlreadyExists => Code::AlreadyExists,
        Reason::StoreConflict => Code::Aborted,
        Reason::TokenBusy => Code::ResourceExhausted,
        Reason::Deadline => Code::DeadlineExceeded,
        Reason::ClusterNotEnrolled | Reason::KeyState | Reason::KeyMissing => Code::FailedPrecondition,
        Reason::TokenUnsupported => Code::Unimplemented,
        Reason::TokenUnknown => Code::Unknown,
        Reason::TokenUnavailable
        | Reason::TokenWaiting
        | Reason::TokenMismatch
        | Reason::PinRefused
        | Reason::PinLatched
        | Reason::StoreUnavailable
        | Reason::StoreClosed
        | Reason::CheckpointOverdue
        | Reason::ClockBehind
        | Reason::PeerUnreachable => Code::Unavailable,
        Reason::InvalidArgument
        | Reason::LimitExceeded
        | Reason::DocumentMalformed
        | Reason::DocumentForbidden
        | Reason::DocumentKind
        | Reason::DocumentIncomplete
        | Reason::DocumentDates
        | Reason::IssuerForeign
        | Reason::IssuerKeyForeign
        | Reason::SignatureInvalid
        | Reason::ChainInvalid
        | Reason::Revoked
        | Reason::UnsealFailed
        | Reason::TokenRefused => Code::InvalidArgument,
        Reason::ObjectAltered => Code::DataLoss,
        Reason::ConfigInvalid
        | Reason::DataDirectory
        | Reason::DataDirectoryInUse
        | Reason::AddressInUse
        | Reason::ModuleMissing
        | Reason::TokenMissing
        | Reason::TokenAmbiguous
        | Reason::PinSource
        | Reason::SchemaNewer
        | Reason::StoreRewound
        | Reason::StoreForked
        | Reason::LogMissing
        | Reason::AnchorInvalid
        | Reason::RecordBroken
        | Reason::CheckpointBroken
        | Reason::PeerRefused
        | Reason::Internal => Code::Internal,
    }
}

/// When the same request is worth sending again: soon if it may succeed without anybody doing anything, later if a person
/// has to act first, never if the request itself is at fault.
fn again_in(reason: Reason) -> Option<Duration> {
    let pause_ms = match reason {
        Reason::TokenBusy
        | Reason::TokenUnavailable
        | Reason::StoreUnavailable
        | Reason::StoreClosed
        | Reason::CheckpointOverdue
        | Reason::PeerUnreachable => RETRY_MS,
        _ if code(reason) == Code::Unavailable => RETRY_MENDED_MS,
        _ => return None,
    };
    Some(Duration::from_millis(pause_ms))
}

/// What a caller gets: the public message and hint, never the private detail, which goes to the log here.
#[must_use]
pub fn status(error: Error) -> Status {
    let reason = error.reason();
    match error.private_detail() {
        Some(detail) => tracing::warn!(reason = reason.code(), detail, "{error}"),
        None => tracing::debug!(reason = reason.code(), "{error}"),
    }
    let hint = error.next_step().map(|hint| ("hint".to_owned(), cut(hint)));
    let mut details = ErrorDetails::with_error_info(reason.code(), DOMAIN, HashMap::from_iter(hint));
    if let Some(pause) = again_in(reason) {
        details.set_retry_info(Some(error.worth_again_in().unwrap_or(pause)));
    }
    Status::with_error_details(code(reason), cut(error.message()), details)
}

/// Words as they are, or their beginning with an ellipsis.
fn cut(words: &str) -> String {
    if words.len() <= WORDS_BYTES_MAX {
        return words.to_owned();
    }
    format!("{}…", &words[..words.floor_char_boundary(WORDS_BYTES_MAX)])
}

/// What a status from a Keyward service says.
#[must_use]
pub fn error(status: &Status) -> Error {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == DOMAIN);
    let known = info.and_then(|info| Reason::ALL.iter().find(|reason| reason.code() == info.reason));
    match (known, info) {
        (Some(reason), Some(info)) => {
            let error = Error::new(*reason, status.message());
            match info.metadata.get("hint") {
                Some(hint) => error.hint(hint.clone()),
                None => error,
            }
        }
        _ if status.code() == Code::Unavailable => {
            Error::new(Reason::PeerUnreachable, format!("the service does not answer: {}", status.message()))
                .hint("start it: keyward serve DIR")
        }
        _ if status.code() == Code::OutOfRange || status.code() == Code::ResourceExhausted => {
            Error::new(Reason::LimitExceeded, status.message())
        }
        _ => Error::new(Reason::PeerRefused, format!("{:?}: {}", status.code(), status.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_the_wire_with_its_hint_and_without_its_detail() {
        let sent = Error::new(Reason::IssuerForeign, "another issuer").hint("copy it").detail("inner fault");
        let status = status(sent);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(!format!("{status:?}").contains("inner fault"));
        let received = error(&status);
        assert_eq!((received.reason(), received.next_step()), (Reason::IssuerForeign, Some("copy it")));
    }

    #[test]
    fn whoever_finds_us_unavailable_or_busy_is_told_when_to_come_back() {
        for reason in Reason::ALL {
            let status = status(Error::new(*reason, "words"));
            let told = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
            let waits = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
            assert_eq!(told.is_some(), waits, "{reason:?}");
            assert!(told.is_none_or(|pause| pause >= Duration::from_millis(RETRY_MS)), "{reason:?}: {told:?}");
        }
        let latched = status(Error::new(Reason::PinLatched, "words"));
        let told = latched.get_error_details().retry_info().and_then(|info| info.retry_delay);
        assert_eq!(told, Some(Duration::from_millis(RETRY_MENDED_MS)), "nobody hammers at what a person has to clear");
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        assert_eq!(cut(&"a".repeat(WORDS_BYTES_MAX)), "a".repeat(WORDS_BYTES_MAX));
        assert_eq!(cut(&"雪".repeat(WORDS_BYTES_MAX)), format!("{}…", "雪".repeat(WORDS_BYTES_MAX / 3)));
    }
}
