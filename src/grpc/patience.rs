//! Answers a caller in time when the store does not: the caller learns why and when to come back, before it gives up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::custody::{Custody, DEADLINE_S};
use crate::grpc::{status, timeout};

/// For how long a commit may be under way before a caller whose time is up is told that it is the store: this part of all
/// the time it had, and at most so many milliseconds.
const STUCK_PART: u32 = 4;
const STUCK_MS: u64 = 200;
/// Time that the answer needs to the caller: this part of all the time it has, within bounds, in milliseconds.
const WAY_PART: u32 = 8;
const WAY_MS: (u64, u64) = (20, 500);

/// Wraps services of this door.
#[derive(Clone)]
pub(super) struct Patience(pub(super) Arc<Custody>);

impl<S> Layer<S> for Patience {
    type Service = Patient<S>;

    fn layer(&self, inner: S) -> Patient<S> {
        Patient { inner, custody: self.0.clone() }
    }
}

/// A service whose callers do not wait in vain for the store.
#[derive(Clone)]
pub(super) struct Patient<S> {
    inner: S,
    custody: Arc<Custody>,
}

impl<S, B> Service<Request<B>> for Patient<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asked = request.headers().get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
        let asked = asked.unwrap_or(Duration::MAX).min(Duration::from_secs(DEADLINE_S));
        let custody = self.custody.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::pin!(answer);
            tokio::select! {
                answer = &mut answer => return answer,
                () = tokio::time::sleep(asked / 2) => {}
            }
            // It may be waiting for something to be read: whether the store answers is not known then, unless it is tried.
            if custody.store_trouble(Duration::ZERO).is_none() {
                let trying = custody.clone();
                tokio::spawn(async move { trying.try_store().await });
            }
            tokio::select! {
                answer = &mut answer => return answer,
                () = tokio::time::sleep(patience(asked).saturating_sub(asked / 2)) => {}
            }
            match custody.store_trouble((asked / STUCK_PART).min(Duration::from_millis(STUCK_MS))) {
                // What was begun goes on without its caller, and is recorded.
                Some(fault) => Ok(status::status(fault).into_http()),
                None => answer.await,
            }
        })
    }
}

/// How long to wait for an answer that has to be with the caller in this time.
fn patience(asked: Duration) -> Duration {
    let (least, most) = (Duration::from_millis(WAY_MS.0), Duration::from_millis(WAY_MS.1));
    asked.saturating_sub((asked / WAY_PART).clamp(least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_sent_a_little_before_the_deadline() {
        let ms = Duration::from_millis;
        for (asked, waited) in [(10_000, 9_500), (800, 700), (80, 60), (10, 0)] {
            assert_eq!(patience(ms(asked)), ms(waited));
        }
    }
}
