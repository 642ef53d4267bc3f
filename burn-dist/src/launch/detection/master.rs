//! The address and the port of rank 0.

use super::claim::Claim;
use super::origin::Sourced;
use super::process_variable::PARENT;
use crate::error::{Error, Result};
use crate::launch::variable::{Environment, Variable};

/// As long as a host name can be in the DNS.
const MAX_HOST_NAME: usize = 253;
/// Below this system's ports for outgoing connections, and beside those of Lightning's rule.
const FIRST_DERIVED: u16 = 25_000;
const DERIVED: u64 = 4_096;

/// The host of rank 0 that a user or a launcher spelled out.
pub(super) fn given_addr(env: Environment<'_>) -> Result<Option<Sourced<String>>> {
    let Some(addr) = env.first_of(&["BURN_DIST_MASTER_ADDR", "MASTER_ADDR"]) else {
        return Ok(None);
    };
    Ok(Some(Sourced::new(host(&addr)?, addr)))
}

/// A variable's value, if it can be a host.
pub(in crate::launch) fn host(addr: &Variable) -> Result<String> {
    let wrong = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if addr.value.contains(wrong) || addr.value.len() > MAX_HOST_NAME {
        return Err(addr.wrong("the name or the address of a host"));
    }
    Ok(addr.value.clone())
}

/// The host of rank 0.
pub(super) fn addr(env: Environment<'_>, claim: &Claim, one_host: bool) -> Result<Sourced<String>> {
    match given_addr(env)?.or_else(|| claim.master_addr.clone()) {
        Some(addr) => Ok(addr),
        None if one_host => Ok(Sourced::by_rule("127.0.0.1".into(), "all ranks are here")),
        None => Err(unknown("MASTER_ADDR", claim)),
    }
}

/// The port of rank 0.
pub(super) fn port(env: Environment<'_>, claim: &Claim, one_host: bool) -> Result<Sourced<u16>> {
    let alone = claim.world_size.value == 1;
    // No other rank connects to a single one, so any free port will do.
    let least = u16::from(!alone);
    if let Some(port) = env.variable("BURN_DIST_MASTER_PORT") {
        return Ok(Sourced::new(number(&port, least)?, port));
    }
    if let Some(port) = env.variable("MASTER_PORT") {
        return beside_agent(env, number(&port, least)?, port);
    }
    if alone {
        return Ok(Sourced::by_rule(0, "any free port, as there is one rank"));
    }
    if let Some(port) = &claim.master_port {
        return Ok(port.clone());
    }
    // `mpirun` names no port, but the ranks of one host share the name of their job, or at least
    // the process that started them.
    let names = [
        "PMIX_NAMESPACE",
        "OMPI_MCA_ess_base_jobid",
        "MPIRUN_ID",
        PARENT,
    ];
    match env.first_of(&names) {
        Some(shared) if one_host && claim.launcher.is_mpi() => {
            let port = FIRST_DERIVED + (hash(&shared.value) % DERIVED) as u16;
            Ok(Sourced::by_rule(port, format!("derived from {shared}")))
        }
        _ => Err(unknown("MASTER_PORT", claim)),
    }
}

/// The port in `MASTER_PORT`, or the next one where torchrun's agent listens on it.
fn beside_agent(env: Environment<'_>, port: u16, variable: Variable) -> Result<Sourced<u16>> {
    let agent = env.variable("TORCHELASTIC_USE_AGENT_STORE");
    let Some(agent) = agent.filter(|agent| agent.value.eq_ignore_ascii_case("true")) else {
        return Ok(Sourced::new(port, variable));
    };
    match port.checked_add(1) {
        Some(next) => {
            let rule = format!("{variable} + 1, as torchrun listens there ({agent})");
            Ok(Sourced::by_rule(next, rule))
        }
        None => Err(variable.wrong(format!(
            "at most 65534, because torchrun itself listens there ({agent}) and the port after it \
             is used; or set BURN_DIST_MASTER_PORT"
        ))),
    }
}

/// A port's number.
pub(in crate::launch) fn number(port: &Variable, least: u16) -> Result<u16> {
    let number = port.number(usize::from(least)..=usize::from(u16::MAX))?;
    // In range, as was just checked.
    Ok(number as u16)
}

fn unknown(name: &str, claim: &Claim) -> Error {
    let expected = format!(
        "where the {} ranks meet, which {} did not say: {}",
        claim.world_size.value,
        claim.launcher,
        claim.launcher.passes_master()
    );
    Error::config(name, expected, "nothing")
}

/// FNV-1a, which is the same in every build; the standard library's hash need not be.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
