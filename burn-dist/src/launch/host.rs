//! The name of this host, for messages.

pub(super) use crate::host::name;
