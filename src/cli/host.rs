//! `keyward token-host`: holds one token for the service that started it. Nobody types this.

use crate::error::Result;
use crate::token::host;

/// Serves on standard input until the service goes away.
pub(super) fn run() -> Result<u8> {
    host::serve().map(|()| 0)
}
