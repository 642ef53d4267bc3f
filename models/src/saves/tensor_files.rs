//! Safetensors files, of which tensors are read one by one.

use burn::tensor::{BoolStore, DType, TensorData};
use burn_dist::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The files that are looked for in a folder.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Beside them, the states of an optimizer.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";

/// Bytes of a header that are read, as in the crate `safetensors`.
const MAX_HEADER: u64 = 100_000_000;

/// The types of elements that are read and written.
const TYPES: [(Dtype, DType); 7] = [
    (Dtype::F64, DType::F64),
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::I64, DType::I64),
    (Dtype::I32, DType::I32),
    (Dtype::BOOL, DType::Bool(BoolStore::Native)),
];

/// The tensors of a safetensors file, or of the files of a folder.
///
/// ```
/// use burn_dist_models::saves::TensorFiles;
///
/// let error = TensorFiles::open("nowhere.safetensors").unwrap_err();
/// assert!(error.to_string().starts_with("nowhere.safetensors: expected"));
/// ```
#[derive(Debug)]
pub struct TensorFiles {
    path: PathBuf,
    files: Vec<(PathBuf, Mutex<File>)>,
    tensors: BTreeMap<String, Placed>,
    metadata: HashMap<String, String>,
}

/// Where a tensor lies, with its shape and type.
#[derive(Debug)]
struct Placed {
    file: usize,
    at: u64,
    bytes: usize,
    shape: Vec<usize>,
    dtype: Dtype,
}

/// The index of a checkpoint in several files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// A file's name of a type.
pub(super) fn file_type(dtype: DType) -> Option<Dtype> {
    let found = TYPES.iter().find(|(_, burn)| *burn == dtype);
    found.map(|(file, _)| *file)
}

impl TensorFiles {
    /// Opens a file, or in a folder `model.safetensors`, or what `model.safetensors.index.json` lists, and
    /// `optimizer.safetensors` if it is there.
    ///
    /// # Cost
    /// The headers are read.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such file, or one is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut all = Self {
            path: path.to_path_buf(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: HashMap::new(),
        };
        if !path.is_dir() {
            all.add(path)?;
            return Ok(all);
        }
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        if !single.is_file() && index.is_file() {
            for name in listed(&index)? {
                all.add(&path.join(name))?;
            }
        } else {
            all.add(&single)?;
        }
        let optimizer = path.join(OPTIMIZER);
        if optimizer.is_file() {
            all.add(&optimizer)?;
        }
        Ok(all)
    }

    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|placed| &placed.shape[..])
    }

    /// The type of a tensor's elements; none for one that Burn has not.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        let placed = self.tensors.get(name)?;
        let found = TYPES.iter().find(|(dtype, _)| *dtype == placed.dtype);
        found.map(|(_, burn)| *burn)
    }

    /// The bytes of a tensor's elements.
    pub fn bytes(&self, name: &str) -> u64 {
        self.tensors
            .get(name)
            .map_or(0, |placed| placed.bytes as u64)
    }

    /// The text of a key of the files' metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// [`Error::File`] if there is none of this name, or it is of a type that Burn has not, or the file cannot be read.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        let Some(placed) = self.tensors.get(name) else {
            let expected = format!("a tensor {name}");
            return Err(Error::file(&self.path, expected, "none"));
        };
        let (path, file) = &self.files[placed.file];
        let dtype = self.dtype(name).ok_or_else(|| {
            let expected = format!("{name} as F64, F32, F16, BF16, I64, I32 or BOOL");
            Error::file(path, expected, format!("{:?}", placed.dtype))
        })?;
        let mut bytes = vec![0; placed.bytes];
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file
            .seek(SeekFrom::Start(placed.at))
            .and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|e| Error::file(path, format!("the elements of {name}"), e))?;
        let is_bool = |byte: &u8| *byte < 2;
        if placed.dtype == Dtype::BOOL && !bytes.iter().all(is_bool) {
            return Err(Error::file(
                path,
                format!("{name} as 0 and 1"),
                "other bytes",
            ));
        }
        Ok(TensorData::from_bytes_vec(
            bytes,
            placed.shape.clone(),
            dtype,
        ))
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let wrong = |found: String| Error::file(path, "a whole safetensors file", found);
        let mut file = File::open(path).map_err(|e| wrong(e.to_string()))?;
        let bytes = file.metadata().map_err(|e| wrong(e.to_string()))?.len();
        let mut length = [0; 8];
        let read = file.read_exact(&mut length);
        read.map_err(|_| wrong(format!("{bytes} bytes that are not one")))?;
        let header = u64::from_le_bytes(length);
        if header > MAX_HEADER.min(bytes) {
            return Err(wrong(format!("{bytes} bytes that are not one")));
        }
        let mut text = String::new();
        let read = file.by_ref().take(header).read_to_string(&mut text);
        read.map_err(|e| wrong(e.to_string()))?;
        let metadata: Metadata = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let data = 8 + header;
        let whole = data.saturating_add(metadata.data_len() as u64);
        if bytes != whole {
            return Err(wrong(format!("{bytes} bytes instead of {whole}")));
        }
        let number = self.files.len();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let placed = Placed {
                file: number,
                at: data + start as u64,
                bytes: end - start,
                shape: info.shape.clone(),
                dtype: info.dtype,
            };
            if self.tensors.contains_key(&name) {
                return Err(Error::file(
                    path,
                    format!("{name} in one file"),
                    "it in two",
                ));
            }
            self.tensors.insert(name, placed);
        }
        self.metadata
            .extend(metadata.metadata().clone().unwrap_or_default());
        self.files.push((path.to_path_buf(), Mutex::new(file)));
        Ok(())
    }
}

/// The files that an index lists.
fn listed(index: &Path) -> Result<BTreeSet<String>> {
    let wanted = "an index with a weight_map from tensor to file";
    let text = std::fs::read_to_string(index).map_err(|e| Error::file(index, wanted, e))?;
    let read: Index = serde_json::from_str(&text).map_err(|e| Error::file(index, wanted, e))?;
    let files: BTreeSet<String> = read.weight_map.into_values().collect();
    // The index may come from an untrusted source: it must not name files outside of its folder.
    let is_name = |file: &&String| Path::new(file).file_name() == Some(file.as_ref());
    match files.iter().find(|file| !is_name(file)) {
        Some(odd) => Err(Error::file(index, "names of files", odd)),
        None => Ok(files),
    }
}
