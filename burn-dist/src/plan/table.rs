//! A plan as a person reads it.

use super::Plan;
use crate::layout::UnitLayout;
use std::fmt;

/// Bytes as a person reads them.
pub(crate) fn readable(bytes: usize) -> String {
    match bytes as f64 {
        b if b < 1e3 => format!("{b:.0} B"),
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

/// What a unit's name says of its part, if the unit is laid out in several.
fn part(unit: &UnitLayout) -> &str {
    let at = unit.name.find(" (").unwrap_or(unit.name.len());
    &unit.name[at..]
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = self.parameters() as f64 / 1e6;
        writeln!(
            f,
            "{} over {} rank(s): {parameters:.2} M parameters in {} unit(s), {:.2} % padding",
            self.strategy,
            self.size,
            self.units.len(),
            100.0 * self.padding()
        )?;
        // Equal neighbours share a row: blocks.0 .. blocks.11 is one line, not twelve. Of units that are laid out in
        // parts, the first parts stand together, then the second; what is stored whole comes last.
        let mut parts: Vec<&str> = Vec::new();
        for unit in &self.units {
            if !parts.contains(&part(unit)) {
                parts.push(part(unit));
            }
        }
        let place = |u: &&UnitLayout| parts.iter().position(|name| *name == part(u));
        let mut units: Vec<&UnitLayout> = self.units.iter().collect();
        units.sort_by_key(|u| (u.is_replicated(), place(u)));
        let head = ["unit", "parameters", "gathered", "per rank"];
        let mut rows = vec![head.map(String::from)];
        let mut rest = &units[..];
        while let Some(first) = rest.first() {
            let same = |u: &&&UnitLayout| {
                u.bytes() == first.bytes()
                    && u.trainable == first.trainable
                    && u.ranks == first.ranks
                    && u.path.is_empty() == first.path.is_empty()
                    && part(u) == part(first)
            };
            let run = rest.iter().take_while(same).count();
            let name = match run {
                1 => first.name.to_string(),
                _ => {
                    let (from, to) = (&first.path, &rest[run - 1].path);
                    format!("{from} .. {to}{} (x{run})", part(first))
                }
            };
            rows.push([
                name,
                first.elements().to_string(),
                readable(self.gathered(first)),
                readable(first.bytes() / first.ranks),
            ]);
            rest = &rest[run..];
        }
        let width = rows.iter().map(|[name, ..]| name.len()).max().unwrap_or(0);
        let width = width.max(28);
        for [name, parameters, gathered, per_rank] in rows {
            writeln!(
                f,
                "  {name:<width$} {parameters:>12} {gathered:>12} {per_rank:>12}"
            )?;
        }
        if self.shard_group_size > 1 {
            let whole = self.units.iter().filter(|u| u.is_replicated());
            let whole: usize = whole.map(UnitLayout::elements).sum();
            let share = 100.0 * whole as f64 / self.parameters().max(1) as f64;
            if whole > 0 {
                writeln!(
                    f,
                    "  not sharded: {share:.1} % of the parameters (the units that are \"replicated\"), of which every \
                     rank stores all"
                )?;
            }
        }
        let memory = self.memory();
        writeln!(
            f,
            "  memory per rank: parameters {} + gradients {} + {} {}{} + in flight {} = {}",
            readable(memory.parameters),
            readable(memory.gradients),
            self.optimizer,
            readable(memory.optimizer),
            match memory.average {
                0 => String::new(),
                bytes => format!(" + average {}", readable(bytes)),
            },
            readable(memory.transient),
            readable(memory.total())
        )?;
        let traffic = self.traffic(self.micro_batches);
        if traffic.is_empty() {
            return write!(f, "  traffic: none");
        }
        match self.micro_batches {
            1 => write!(f, "  sent per rank and step:")?,
            n => write!(f, "  sent per rank and step of {n} micro-batches:")?,
        }
        for t in traffic {
            write!(f, " {} x{} {};", t.op.name(), t.calls, readable(t.bytes))?;
        }
        Ok(())
    }
}
