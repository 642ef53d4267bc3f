//! The files of a checkpoint: they are found and mapped, and their headers read, but no weights.

use super::contents::Contents;
use super::elements::{Elements, burn_float, file_float};
use super::name::{Name, Naming};
use crate::error::{Error, Result};
use burn::tensor::DType;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The file of a checkpoint that is not divided.
pub(super) const SINGLE: &str = "model.safetensors";
/// The index of a checkpoint in several files, which lists the file of each tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Files of checkpoints in other formats, and the names of the formats.
const FOREIGN: [(&str, &str); 4] = [
    ("pytorch_model.bin", "PyTorch's pickle format"),
    ("pytorch_model.bin.index.json", "PyTorch's pickle format"),
    ("tf_model.h5", "TensorFlow's format"),
    ("flax_model.msgpack", "Flax's format"),
];

/// The index of a checkpoint in several files.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) metadata: IndexMetadata,
    /// The file of each tensor.
    pub(super) weight_map: BTreeMap<String, String>,
}

/// The metadata of an index; readers do not need it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct IndexMetadata {
    #[serde(default)]
    pub(super) total_size: u64,
}

/// Weights on disk in Hugging Face's layout, ready to be read range by range.
///
/// The files are mapped, and must not be written to while they are in use: a file that shrinks under
/// a map kills the process that reads it. Give every rank its own: opening costs the headers only.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::Device};
/// use burn_dist::weights::{Export, Name, Weights};
///
/// let folder = std::env::temp_dir().join(format!("burn-dist-doc-{}", std::process::id()));
/// let name = |path: &str| Some(Name::new(format!("dense.{path}")));
/// let model = LinearConfig::new(3, 2).init(&Device::flex());
/// Export::new().named(name).write(&model, &folder)?;
///
/// let weights = Weights::open(&folder)?.named(name);
/// let other = LinearConfig::new(3, 2).init(&Device::flex());
/// let (other, report) = weights.apply(other)?;
/// assert_eq!(report.applied, ["weight", "bias"]);
/// assert_eq!(other.weight.val().into_data(), model.weight.val().into_data());
/// # std::fs::remove_dir_all(&folder).ok();
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    /// What the header of a single file says beside its tensors.
    pub(super) metadata: HashMap<String, String>,
    files: Vec<Source>,
    tensors: BTreeMap<String, StoredTensor>,
    pub(super) naming: Naming,
    pub(super) may_differ: Vec<String>,
    /// Allows a model to have parameters that are not here.
    pub(super) may_lack: bool,
    /// Tensors that an index lists in a file that lacks them or does not exist.
    absent: BTreeMap<String, PathBuf>,
    /// Ranks compare every element, and not a sample.
    pub(super) compares_all: bool,
}

/// The bytes of some tensors, and the file that they are from.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    contents: Contents,
}

/// The location of a tensor in the mapped files, with its shape and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredTensor {
    file: usize,
    pub(super) shape: Vec<usize>,
    dtype: Dtype,
    bytes: Range<usize>,
}

impl Weights {
    /// Opens `model.safetensors` or the files of `model.safetensors.index.json` in a folder, or a
    /// single file.
    ///
    /// # Errors
    /// [`Error::File`] if there is nothing to open, or a file is missing, short or damaged; for a
    /// folder with weights in another format it says how to convert them.
    ///
    /// # Source
    /// The layout of `save_pretrained` in Hugging Face's `transformers`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut weights = Self {
            path: path.to_path_buf(),
            metadata: HashMap::new(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            naming: Naming::default(),
            may_differ: Vec::new(),
            may_lack: false,
            absent: BTreeMap::new(),
            compares_all: false,
        };
        // Both may be there; readers of this layout take the single file first.
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        if path.is_file() {
            weights.add(path, |_| true)?;
        } else if single.exists() {
            weights.add(&single, |_| true)?;
        } else if index.exists() {
            weights.add_indexed(path, &index)?;
        } else {
            return Err(no_weights(path));
        }
        Ok(weights)
    }

    /// Sets the names of a model's parameters in these files, by module path; without this, they are the
    /// paths. A parameter without a name is not in the files.
    pub fn named<N: Into<Name>>(
        mut self,
        naming: impl Fn(&str) -> Option<N> + Send + Sync + 'static,
    ) -> Self {
        self.naming = Naming::new(naming);
        self
    }

    /// Modules or parameters, by path, that are drawn anew if their shape in the files differs, such
    /// as a classifier for other labels, or if the files lack them. Every other difference is an error.
    pub fn may_differ(mut self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.may_differ.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Lets a model have parameters that are not here and are not [listed](Self::may_differ): they are
    /// drawn anew. Without this they are an error.
    pub fn may_lack_parameters(mut self) -> Self {
        self.may_lack = true;
        self
    }

    /// Names and shapes of all tensors, in alphabetical order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let all = self.tensors.iter();
        all.map(|(name, stored)| (name.as_str(), stored.shape.as_slice()))
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn entry(&self, name: &str) -> Option<(&str, &StoredTensor)> {
        let found = self.tensors.get_key_value(name)?;
        Some((found.0, found.1))
    }

    /// True if every tensor is in the file that the index lists; a download may be incomplete.
    pub fn is_complete(&self) -> bool {
        self.absent.is_empty()
    }

    /// Fails for a tensor that the index lists and that is not in its file.
    ///
    /// # Errors
    /// [`Error::File`] with the tensor and the file that it should be in.
    pub(super) fn check_listed(&self, name: &str) -> Result<()> {
        match self.absent.get(name) {
            None => Ok(()),
            Some(file) if file.is_file() => {
                let expected = format!("the tensor {name}, which {INDEX} says is here");
                Err(Error::file(file, expected, "no such tensor"))
            }
            Some(file) => {
                let expected = format!(
                    "the tensor {name} in {}, which {INDEX} names",
                    file.display()
                );
                Err(Error::file(&self.path, expected, "no such file"))
            }
        }
    }

    /// The float type of a tensor.
    ///
    /// # Errors
    /// [`Error::File`] for any other type.
    pub(super) fn dtype(&self, name: &str, stored: &StoredTensor) -> Result<DType> {
        burn_float(stored.dtype).ok_or_else(|| {
            let expected = format!("{name} as F64, F32, F16 or BF16");
            let path = &self.files[stored.file].path;
            Error::file(path, expected, format!("{:?}", stored.dtype))
        })
    }

    /// The elements of a tensor, in the map.
    pub(super) fn elements(
        &self,
        stored: &StoredTensor,
        dtype: DType,
        transposed: bool,
    ) -> Elements<'_> {
        let transposed = match (transposed, stored.shape.as_slice()) {
            (true, &[rows, columns]) => Some([rows, columns]),
            _ => None,
        };
        Elements {
            bytes: self.bytes(stored),
            dtype,
            transposed,
        }
    }

    /// Every tensor, in the order of their names.
    pub(super) fn stored(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        let all = self.tensors.iter();
        all.map(|(name, stored)| (name.as_str(), stored))
    }

    /// The bytes of a tensor.
    pub(super) fn bytes(&self, stored: &StoredTensor) -> &[u8] {
        &self.files[stored.file].contents[stored.bytes.clone()]
    }

    /// The name of the file that a tensor lies in.
    pub(super) fn file_name(&self, stored: &StoredTensor) -> String {
        let name = self.files[stored.file].path.file_name();
        name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// The shape and type of a tensor.
    pub(super) fn shape_and_type(&self, stored: &StoredTensor) -> String {
        format!("{:?} {:?}", stored.shape, stored.dtype)
    }

    fn add_indexed(&mut self, folder: &Path, path: &Path) -> Result<()> {
        let wanted = "an index with a weight_map from tensor to file";
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, wanted, e))?;
        let index: Index = serde_json::from_str(&text).map_err(|e| Error::file(path, wanted, e))?;
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, file) in &index.weight_map {
            // The index may come from an untrusted source: it must not name files outside of its folder.
            if Path::new(file).file_name() != Some(file.as_ref()) {
                return Err(Error::file(path, format!("a file name for {name}"), file));
            }
            files.entry(file).or_default().push(name);
        }
        for (file, names) in files {
            let file = folder.join(file);
            if file.is_file() {
                self.add(&file, |name| names.binary_search(&name).is_ok())?;
            }
            // This is an error only for a tensor that the model reads.
            let absent = names
                .iter()
                .filter(|name| !self.tensors.contains_key(**name));
            self.absent
                .extend(absent.map(|name| (name.to_string(), file.clone())));
        }
        Ok(())
    }

    /// Maps a file and adds those of its tensors that are `wanted`.
    fn add(&mut self, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let whole = "a whole safetensors file";
        let map = Contents::mapped(path).map_err(|e| Error::file(path, whole, e))?;
        if map.starts_with(b"version https://git-lfs") {
            let found = "a pointer of Git LFS: fetch the file itself with `git lfs pull`";
            return Err(Error::file(path, whole, found));
        }
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            let found = format!("{} bytes that are not one: {e}", map.len());
            Error::file(path, whole, found)
        })?;
        self.metadata
            .extend(metadata.metadata().clone().unwrap_or_default());
        // The header's own length comes first, in 8 bytes.
        let data = 8 + header;
        for (name, info) in metadata.tensors() {
            if wanted(&name) {
                let (start, end) = info.data_offsets;
                let stored = StoredTensor {
                    file: self.files.len(),
                    shape: info.shape.clone(),
                    dtype: info.dtype,
                    bytes: data + start..data + end,
                };
                self.tensors.insert(name, stored);
            }
        }
        self.files.push(Source {
            path: path.to_path_buf(),
            contents: map,
        });
        Ok(())
    }

    /// Puts these elements in the place of a tensor; false if there is no such tensor, or `dtype` is no float of files.
    pub(super) fn replace(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        bytes: &[u8],
    ) -> bool {
        let number = self.files.len();
        let (Some(dtype), Some(stored)) = (file_float(dtype), self.tensors.get_mut(name)) else {
            return false;
        };
        let path = self.files[stored.file].path.clone();
        *stored = StoredTensor {
            file: number,
            shape: shape.to_vec(),
            dtype,
            bytes: 0..bytes.len(),
        };
        self.files.push(Source {
            path,
            contents: Contents::Made(bytes.into()),
        });
        true
    }
}

/// The error for a path without weights.
fn no_weights(path: &Path) -> Error {
    let expected = format!("{SINGLE} or {INDEX}");
    let foreign = FOREIGN.iter().find(|(file, _)| path.join(file).exists());
    let found = match foreign {
        Some((file, format)) => format!(
            "{file}, which is {format}: open it with Python's transformers and write it with \
             save_pretrained(folder, safe_serialization=True)"
        ),
        None if path.is_dir() => "a folder with neither".into(),
        None => "no such folder".into(),
    };
    Error::file(path, expected, found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::weights::Export;
    use burn::nn::LinearConfig;
    use burn::tensor::Device;
    use std::fs;

    /// What opening a folder with these files says.
    fn message(files: &[(&str, &[u8])]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, contents) in files {
            fs::write(folder.path().join(name), contents).unwrap();
        }
        match Weights::open(folder.path()).unwrap_err() {
            error @ Error::File { .. } => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_checkpoint_is_an_error_that_says_what_to_do() {
        let none = Weights::open("/nowhere/at/all").unwrap_err().to_string();
        assert!(none.contains("no such folder"), "{none}");
        let empty = message(&[]);
        assert!(empty.contains("a folder with neither"), "{empty}");
        let pickle = message(&[("pytorch_model.bin", b"PK")]);
        assert!(pickle.contains("safe_serialization=True"), "{pickle}");
        let pointer = message(&[(
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n",
        )]);
        assert!(pointer.contains("git lfs pull"), "{pointer}");
        for junk in [&b""[..], b"short", &[0xff; 64]] {
            let junk = message(&[("model.safetensors", junk)]);
            assert!(junk.contains("expected a whole safetensors file"), "{junk}");
        }
    }

    #[test]
    fn damaged_files_are_named() {
        let whole = tempfile::tempdir().unwrap();
        let model = LinearConfig::new(7, 15).init(&Device::flex());
        Export::new().write(&model, whole.path()).unwrap();
        let bytes = fs::read(whole.path().join("model.safetensors")).unwrap();
        // At every length that is too short, and with a tail.
        for len in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            let cut = message(&[("model.safetensors", &bytes[..len])]);
            assert!(
                cut.contains(&format!("found {len} bytes")) || len == 0,
                "{cut}"
            );
        }
        let longer = [&bytes[..], b"tail"].concat();
        assert!(message(&[("model.safetensors", &longer)]).contains("not fully covered"));

        let index = |map: &str| format!("{{\"metadata\": {{}}, \"weight_map\": {{{map}}}}}");
        let one = "model-00001-of-00002.safetensors";
        let read = |map: &str, bytes: &[u8]| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(INDEX), index(map)).unwrap();
            fs::write(folder.path().join(one), bytes).unwrap();
            let weights = Weights::open(folder.path()).unwrap();
            // Each of these indices names something that is not there.
            assert!(!weights.is_complete());
            let layer = LinearConfig::new(7, 15).init(&Device::flex());
            weights.apply(layer).map(drop).map_err(|e| e.to_string())
        };
        let both = format!("\"weight\": \"{one}\", \"bias\": ");
        let missing = read(
            &format!("{both}\"model-00002-of-00002.safetensors\""),
            &bytes,
        );
        let missing = missing.unwrap_err();
        assert!(missing.contains("the tensor bias in"), "{missing}");
        assert!(missing.contains("no such file"), "{missing}");
        let mut unbiased = LinearConfig::new(7, 15).init(&Device::flex());
        unbiased.bias = None;
        let folder = tempfile::tempdir().unwrap();
        Export::new().write(&unbiased, folder.path()).unwrap();
        let unbiased = fs::read(folder.path().join(SINGLE)).unwrap();
        let lacks = read(&format!("{both}\"{one}\""), &unbiased).unwrap_err();
        assert!(lacks.contains("the tensor bias, which"), "{lacks}");
        // What nobody reads may be missing.
        let strangers = "\"pooler\": \"nowhere.safetensors\", \"decoder\": ";
        let whole = format!("{both}\"{one}\", {strangers}\"{one}\"");
        assert_eq!(read(&whole, &bytes), Ok(()));
        let case = |map: &str| message(&[(INDEX, index(map).as_bytes()), (one, &bytes)]);
        let outside = case("\"weight\": \"../model.safetensors\"");
        assert!(outside.contains("a file name for weight"), "{outside}");
        let junk = message(&[("model.safetensors.index.json", b"[]")]);
        assert!(junk.contains("weight_map"), "{junk}");
    }
}
