//! The export of adapters to PEFT's files.

use super::super::export::Export;
use super::super::writer::Writer;
use super::config::AdapterConfig;
use super::merge::Merge;
use super::{base, names};
use crate::error::{Error, Result};
use crate::finite::{self, Looked};
use crate::lora::{self, LoraConfig};
use crate::shard::StoredShards;
use crate::world::World;
use burn::module::Module;
use std::path::Path;

const WHAT: &str = "export the adapters";

impl World {
    /// Writes the adapters of a model that was sharded with [`Strategy::lora`](crate::Strategy::lora), and the parameters that
    /// train beside them, to a folder that Python's PEFT opens.
    ///
    /// `export` names the *weights*, as for the export of the whole model; the names of the adapters follow. Rank 0 writes
    /// `adapter_model.safetensors` and `adapter_config.json`. Collective.
    ///
    /// # Cost
    /// One all-gather for each unit that trains.
    ///
    /// # Errors
    /// [`Error::Model`] if `model` has no adapters, for a parameter without a name, and for one that is not finite;
    /// [`Error::File`] where a file cannot be written. What fails on one rank fails on all.
    ///
    /// ```
    /// use burn::nn::LinearConfig;
    /// use burn_dist::weights::{Adapters, Export, Name};
    /// use burn_dist::{LoraConfig, Strategy, launch::Threads};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path().to_path_buf();
    /// let name = |path: &str| Some(Name::new(format!("dense.{path}")).transposed());
    /// Threads::new(2).run(|world| {
    ///     let layer = || LinearConfig::new(16, 8).init(&world.device());
    ///     let model = Strategy::fsdp().lora(LoraConfig::new(2, 4.0)).shard(layer(), &world)?;
    ///     world.export_adapters(&model, &folder, &Export::new().named(name))?;
    ///
    ///     let adapters = Adapters::open(&folder)?.named(name);
    ///     let plain = layer();
    ///     let strategy = Strategy::zero2().lora(adapters.config(&plain)?);
    ///     let other = strategy.shard(plain, &world)?;
    ///     # assert!(world.load_adapters(other, &adapters).is_err()); // another base
    ///     # let adapters = adapters.for_any_base();
    ///     # let other = Strategy::zero2().lora(adapters.config(&layer())?).shard(layer(), &world)?;
    ///     let other = world.load_adapters(other, &adapters)?;
    ///     # let _ = other;
    ///     Ok(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Source
    /// PEFT: `PeftModel.save_pretrained`.
    pub fn export_adapters<M: Module>(
        &self,
        model: &M,
        folder: impl AsRef<Path>,
        export: &Export,
    ) -> Result<()> {
        let folder = folder.as_ref();
        let mut looked = Looked::default();
        self.together(WHAT, || {
            looked = Looked::at(model)?;
            Ok([0; 2])
        })?;
        finite::agree(self.comm(), looked.first, WHAT, |first| looked.name(first))?;
        let mut stored = StoredShards::of_sharded(model)?;
        let digest = base::digest(self, &stored)?;
        stored
            .units
            .retain(|unit| unit.sharding.unit(unit.number).layout.trainable);
        let mut ready = None;
        self.together(WHAT, || {
            let (entries, config) = describe(&stored, export)?;
            let metadata = [(base::KEY, digest.as_str())];
            let start = || Writer::single(folder, "adapter_model", entries, &metadata);
            ready = Some((self.is_chief().then(start).transpose()?, config));
            Ok([0; 2])
        })?;
        let Some((mut writer, config)) = ready else {
            return Ok(());
        };
        // If writing fails on rank 0, it still takes part in all gathers, and reports the error at the end.
        let mut written = Ok(());
        stored.gather_each(|layout, flat| {
            if let (Some(writer), Ok(())) = (&mut writer, &written) {
                written = Merge::default().put(writer, layout, flat);
            }
        })?;
        self.together(WHAT, || {
            written?;
            self.comm().fault().map_or(Ok(()), Err)?;
            if let Some(writer) = writer {
                writer.finish()?;
                config.write(folder)?;
            }
            Ok([0; 2])
        })?;
        Ok(())
    }
}

/// What is written of the trained parameters, and the configuration beside it.
fn describe(
    stored: &StoredShards,
    export: &Export,
) -> Result<(Vec<super::super::writer::Entry>, AdapterConfig)> {
    let (mut entries, mut targets, mut saved) = (Vec::new(), Vec::new(), Vec::new());
    for layout in stored.units.iter().map(|unit| unit.layout()) {
        for slot in &layout.slots {
            let path = slot.path.as_str();
            let name = if let Some((weight, factor)) = lora::factor(path) {
                let weight = export.name(weight)?.name;
                let module = names::module(&weight).to_string();
                if targets.last() != Some(&module) {
                    targets.push(module);
                }
                names::factor(&weight, factor)
            } else {
                let name = export.name(path)?;
                let module = names::module(&name.name).to_string();
                if !saved.contains(&module) {
                    saved.push(module);
                }
                names::saved(&name)
            };
            entries.push(export.named_entry(path, name, &slot.shape, layout.dtype)?);
        }
    }
    let lora: Option<LoraConfig> = stored
        .shardings()
        .iter()
        .find_map(|sharding| sharding.strategy.lora.clone());
    match lora {
        Some(lora) => Ok((
            entries,
            AdapterConfig::new(lora.rank, lora.alpha, targets, saved),
        )),
        None => Err(Error::model(
            "this model",
            "has no adapters",
            "shard it with Strategy::lora, or export all of it with world.export",
        )),
    }
}
