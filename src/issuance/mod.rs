//! Documents that a cluster issues: each operation checks its request, then asks custody.

pub mod sign_document;
