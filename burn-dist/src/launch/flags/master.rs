//! The address and the port of rank 0.

use super::arguments::Flags;
use super::hosts::Given;
use super::nnodes::NNodes;
use crate::error::{Error, Result};
use crate::launch::detection::{host, port as number};
use crate::launch::variable::Environment;

/// torchrun's, for several hosts.
const DEFAULT_PORT: u16 = 29_500;

/// The host of rank 0.
pub(super) fn addr(flags: &Flags, env: Environment<'_>, nodes: &Given<NNodes>) -> Result<String> {
    if let Some(addr) = &flags.master_addr {
        if addr.trim().is_empty() {
            return Err(Error::config("--master-addr", "a host", "an empty text"));
        }
        return Ok(addr.clone());
    }
    // Nobody else comes to a single host, whatever name the cluster has for it.
    if nodes.value.most == 1 {
        return Ok("127.0.0.1".into());
    }
    match env.first_of(&["PET_MASTER_ADDR", "LWS_LEADER_ADDRESS"]) {
        Some(variable) => host(&variable),
        None => {
            let expected = format!("the host of rank 0, as {} was given", nodes.by);
            Err(Error::config("--master-addr", expected, "nothing"))
        }
    }
}

/// The port of rank 0.
pub(super) fn port(flags: &Flags, env: Environment<'_>, nodes: &Given<NNodes>) -> Result<u16> {
    let several = nodes.value.most > 1;
    match (flags.master_port, env.variable("PET_MASTER_PORT")) {
        (Some(0), _) if several => {
            let expected = format!("a port from 1 to 65535, as {} was given", nodes.by);
            Err(Error::config("--master-port", expected, "0"))
        }
        (Some(port), _) => Ok(port),
        (None, _) if !several => Ok(0),
        (None, Some(variable)) => number(&variable, 1),
        (None, None) => Ok(DEFAULT_PORT),
    }
}
