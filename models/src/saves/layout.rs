//! The names of tensors in a file, and which of them lie there transposed.

use crate::bert::{self, Family};
use crate::hf::HfName;
use crate::vit;
use std::fmt;

/// How a file names the tensors of a model.
///
/// ```
/// use burn_dist_models::saves::Layout;
///
/// let name = Layout::Vit.name("head.weight").unwrap();
/// assert_eq!((name.name.as_str(), name.transpose), ("classifier.weight", true));
/// let path = Layout::Bert.path("bert.encoder.layer.3.output.LayerNorm.weight");
/// assert_eq!(path.as_deref(), Some("bert.blocks.3.norm_mlp.gamma"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The names are the paths in the model.
    Paths,
    /// Hugging Face's, of a ViT.
    Vit,
    /// Hugging Face's, of a BERT.
    Bert,
    /// Hugging Face's, of a DistilBERT.
    DistilBert,
}

/// Hugging Face's layouts. What a DistilBERT has a BERT has too, and so it comes first.
const OF_MODELS: [Layout; 3] = [Layout::Vit, Layout::DistilBert, Layout::Bert];

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Paths => "paths",
            Self::Vit => "Hugging Face's ViT",
            Self::Bert => "Hugging Face's BERT",
            Self::DistilBert => "Hugging Face's DistilBERT",
        })
    }
}

impl Layout {
    /// Hugging Face's layout that has a name for each of these paths; none if no model here has them all.
    pub fn of_paths<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        let mut layouts = OF_MODELS.into_iter();
        layouts.find(|layout| paths.clone().all(|path| layout.name(path).is_some()))
    }

    /// Hugging Face's layout that knows most of these names; that of paths if none knows more than half of them.
    pub fn of_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Self {
        let known = |layout: Self| {
            let known = names.clone().filter(|name| layout.path(name).is_some());
            known.count()
        };
        let best = OF_MODELS.map(|layout| (known(layout), layout));
        // Of equals the first, and so not `max_by_key`.
        let best = best
            .into_iter()
            .reduce(|a, b| if b.0 > a.0 { b } else { a });
        best.filter(|(known, _)| 2 * known > names.clone().count())
            .map_or(Self::Paths, |(_, layout)| layout)
    }

    /// What the tensor at a path is called; none if the layout's model has no such.
    pub fn name(self, path: &str) -> Option<HfName> {
        match self {
            Self::Paths => Some(HfName {
                name: path.into(),
                transpose: false,
            }),
            Self::Vit => vit::hf_name(path),
            Self::Bert => bert::hf_name(Family::Bert, path),
            Self::DistilBert => bert::hf_name(Family::DistilBert, path),
        }
    }

    /// The path of a tensor of this name, or of another name that it has in older files or in those of a bare encoder.
    pub fn path(self, name: &str) -> Option<String> {
        match self {
            Self::Paths => Some(name.into()),
            Self::Vit => vit::hf_path(name),
            Self::Bert => bert::hf_path(Family::Bert, name),
            Self::DistilBert => bert::hf_path(Family::DistilBert, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_the_model() {
        let of = |paths: &[&str]| Layout::of_paths(paths.iter().copied());
        let vit = ["embeddings.class_token", "head.bias", "norm.gamma"];
        assert_eq!(of(&vit), Some(Layout::Vit));
        assert_eq!(
            of(&["bert.embeddings.words", "head.bias"]),
            Some(Layout::DistilBert)
        );
        let bert = ["bert.embeddings.words", "bert.embeddings.types"];
        assert_eq!(of(&bert), Some(Layout::Bert));
        assert_eq!(of(&["head.bias", "a.strange.weight"]), None);
    }

    #[test]
    fn names_tell_the_model() {
        let of = |names: &[&str]| Layout::of_names(names.iter().copied());
        let bert = "bert.encoder.layer.0.attention.self.key.bias";
        assert_eq!(
            of(&[bert, "bert.pooler.dense.bias", "strange"]),
            Layout::Bert
        );
        assert_eq!(
            of(&["transformer.layer.0.ffn.lin1.bias"]),
            Layout::DistilBert
        );
        assert_eq!(of(&["vit.layernorm.weight"]), Layout::Vit);
        assert_eq!(of(&["blocks.0.weight"]), Layout::Paths);
        // Another model may have a layer that is called so.
        let other = [
            "classifier.weight",
            "classifier.bias",
            "a.weight",
            "b.weight",
        ];
        assert_eq!(of(&other), Layout::Paths);
    }

    #[test]
    fn older_names_and_bare_encoders_have_paths() {
        let path = |layout: Layout, name| layout.path(name);
        let older = path(Layout::Bert, "bert.embeddings.LayerNorm.gamma");
        assert_eq!(older.as_deref(), Some("bert.embeddings.norm.gamma"));
        let bare = path(Layout::Bert, "embeddings.LayerNorm.beta");
        assert_eq!(bare.as_deref(), Some("embeddings.norm.beta"));
        let bare = path(Layout::Vit, "layernorm.weight");
        assert_eq!(bare.as_deref(), Some("norm.gamma"));
        for odd in ["bert.pooler", "encoder.layer.x.output.dense.bias", ""] {
            assert_eq!(path(Layout::Bert, odd), None, "{odd}");
        }
    }
}
