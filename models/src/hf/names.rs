//! The names of parameters in a Hugging Face checkpoint, by their module paths here.
//!
//! Each model has a table of names. So its fields keep descriptive names, and the names of foreign files are
//! in one place per model.

/// What a parameter is called in a Hugging Face checkpoint, and how it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfName {
    /// The tensor's name in the file.
    pub name: String,
    /// Whether the file holds the transpose: linear weights are `[outputs, inputs]` there and
    /// `[inputs, outputs]` in Burn.
    pub transpose: bool,
}

/// The names of a model or of a part of one, each pair being ours and theirs.
#[derive(Debug)]
pub(crate) struct Names {
    /// Parameters that belong to no layer.
    pub(crate) parameters: &'static [(&'static str, &'static str)],
    /// Layers outside the blocks.
    pub(crate) layers: &'static [(&'static str, &'static str)],
    /// What stands before a block's number in the file.
    pub(crate) blocks: &'static str,
    /// Layers of a block.
    pub(crate) block: &'static [(&'static str, &'static str)],
    /// Our names of convolutions, whose kernels have the same layout in both.
    pub(crate) convolutions: &'static [&'static str],
}

/// What stands before the names of an encoder that has a head.
const PREFIXES: [&str; 3] = ["vit.", "bert.", "distilbert."];

/// How the names of a bare encoder of ours begin, and what may stand before them.
const BARE: [(&str, &[&str]); 3] = [
    ("embeddings.", &["bert.", "distilbert."]),
    ("encoder.", &["bert."]),
    ("transformer.", &["distilbert."]),
];

impl HfName {
    /// Other names under which files may have the tensor: with or without the encoder's prefix, since a bare
    /// encoder is written without, with the words that PyTorch's norms had before 2020, and as version 5 of `transformers` calls
    /// the layers of a Vision Transformer, for whose adapters PEFT takes these names.
    ///
    /// # Example
    ///
    /// ```
    /// use burn_dist_models::hf::HfName;
    ///
    /// let name = HfName { name: "bert.embeddings.LayerNorm.bias".into(), transpose: false };
    /// assert_eq!(
    ///     name.others(),
    ///     [
    ///         "embeddings.LayerNorm.bias",
    ///         "bert.embeddings.LayerNorm.beta",
    ///         "embeddings.LayerNorm.beta",
    ///     ]
    /// );
    /// ```
    pub fn others(&self) -> Vec<String> {
        let mut names = vec![self.name.clone()];
        let bare = PREFIXES
            .iter()
            .find_map(|prefix| self.name.strip_prefix(prefix));
        names.extend(bare.map(String::from));
        let starts = BARE
            .iter()
            .filter(|(start, _)| self.name.starts_with(start));
        for prefix in starts.flat_map(|(_, prefixes)| *prefixes) {
            names.push(format!("{prefix}{}", self.name));
        }
        let older = |name: &String| {
            let (layer, parameter) = name.rsplit_once(".LayerNorm.")?;
            let parameter = if parameter == "weight" {
                "gamma"
            } else {
                "beta"
            };
            Some(format!("{layer}.LayerNorm.{parameter}"))
        };
        let older: Vec<String> = names.iter().filter_map(older).collect();
        names.extend(older);
        names.extend(newer(&self.name));
        names.split_off(1)
    }

    /// The name that the layer has in a model of version 5 of `transformers`, where that is not the one in its checkpoints:
    /// PEFT names adapters after it.
    ///
    /// ```
    /// use burn_dist_models::vit::hf_name;
    ///
    /// let query = hf_name("blocks.3.attention.query.weight").unwrap();
    /// assert_eq!(query.in_model().name, "vit.layers.3.attention.q_proj.weight");
    /// ```
    pub fn in_model(self) -> Self {
        match newer(&self.name) {
            Some(name) => Self { name, ..self },
            None => self,
        }
    }
}

/// The name of a Vision Transformer's layer in version 5 of `transformers`.
fn newer(name: &str) -> Option<String> {
    const LAYERS: [(&str, &str); 6] = [
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ];
    let (block, layer) = name.strip_prefix("vit.encoder.layer.")?.split_once('.')?;
    let (layer, parameter) = layer.rsplit_once('.')?;
    let layer = lookup(&LAYERS, layer)?;
    Some(format!("vit.layers.{block}.{layer}.{parameter}"))
}

impl Names {
    /// What the parameter at `path` is called; `None` if there is none such.
    pub(crate) fn of(&self, path: &str) -> Option<HfName> {
        if let Some(name) = lookup(self.parameters, path) {
            return Some(HfName {
                name: name.to_owned(),
                transpose: false,
            });
        }
        let (layer, parameter) = path.rsplit_once('.')?;
        let name = match layer.strip_prefix("blocks.") {
            Some(inner) => {
                let (index, layer) = inner.split_once('.')?;
                let index: usize = index.parse().ok()?;
                format!("{}.{index}.{}", self.blocks, lookup(self.block, layer)?)
            }
            None => lookup(self.layers, layer)?.to_owned(),
        };
        let is_norm = layer.rsplit('.').next()?.starts_with("norm");
        let parameter = match (is_norm, parameter) {
            (true, "gamma") | (false, "weight") => "weight",
            (true, "beta") | (false, "bias") => "bias",
            _ => return None,
        };
        Some(HfName {
            name: format!("{name}.{parameter}"),
            transpose: parameter == "weight" && !is_norm && !self.convolutions.contains(&layer),
        })
    }

    /// The path of the parameter that is called `name`; `None` if there is none such.
    pub(crate) fn path(&self, name: &str) -> Option<String> {
        if let Some(path) = reverse(self.parameters, name) {
            return Some(path.to_owned());
        }
        let (layer, parameter) = name.rsplit_once('.')?;
        let block = layer.strip_prefix(self.blocks);
        let path = match block.and_then(|inner| inner.strip_prefix('.')) {
            Some(inner) if !self.blocks.is_empty() => {
                let (index, layer) = inner.split_once('.')?;
                let index: usize = index.parse().ok()?;
                format!("blocks.{index}.{}", reverse(self.block, layer)?)
            }
            _ => reverse(self.layers, layer)?.to_owned(),
        };
        let is_norm = path.rsplit('.').next()?.starts_with("norm");
        let parameter = match (is_norm, parameter) {
            (true, "weight" | "gamma") => "gamma",
            (true, "bias" | "beta") => "beta",
            (false, "weight" | "bias") => parameter,
            _ => return None,
        };
        Some(format!("{path}.{parameter}"))
    }
}

fn reverse(table: &[(&'static str, &str)], theirs: &str) -> Option<&'static str> {
    let (ours, _) = table.iter().find(|(_, name)| *name == theirs)?;
    Some(ours)
}

fn lookup(table: &[(&str, &'static str)], ours: &str) -> Option<&'static str> {
    let (_, theirs) = table.iter().find(|(key, _)| *key == ours)?;
    Some(theirs)
}
