//! Builds the mock, and starts this program again with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The variable that names a process's case.
const CASE: &str = "BURN_DIST_TEST_NCCL_CASE";
/// What the engine opens as NCCL, and here, where the real one is.
const LIBRARY: &str = "BURN_DIST_NCCL_LIB";
/// What lets ranks share a GPU.
const SHARING: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
/// Every case ends within this time.
const LIMIT: Duration = Duration::from_secs(240);

/// What a case finds.
#[derive(Clone, Copy)]
pub(crate) enum Install {
    /// Driver and NCCL.
    Mock,
    /// NCCL alone.
    NoDriver,
    /// The driver alone.
    NoNccl,
    /// NCCL under the name that it has without headers.
    Runtime,
    /// NCCL outside of the search path, named by its variable.
    Named,
    /// Both, and NCCL is asked to let ranks share a GPU.
    Sharing,
    /// Both without one function.
    Without(&'static str),
    /// The mock's driver and the real NCCL, if there is one.
    Real,
}

/// The case that this process is, if it is one.
pub(crate) fn case() -> Option<String> {
    std::env::var(CASE).ok()
}

/// Builds the mock and returns its file.
pub(crate) fn build() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mock_cuda/Cargo.toml");
    // Beside this program's own files, where the next run finds it; not among them, where it would be loaded as
    // the real one.
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().nth(3).unwrap().join("mock-cuda");
    let built = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()))
        .args([
            "build",
            "--release",
            "--offline",
            "--quiet",
            "--manifest-path",
        ])
        .arg(&manifest)
        .env("CARGO_TARGET_DIR", &target)
        .status();
    assert!(built.unwrap().success(), "the mock does not build");
    target.join("release/libmock_cuda.so")
}

/// Runs a case and returns its result.
pub(crate) fn run(
    name: &str,
    install: Install,
    library: &Path,
    folder: &Path,
) -> Result<String, String> {
    let real = std::env::var(LIBRARY);
    let folder = folder.join(name.replace(' ', "_"));
    std::fs::create_dir(&folder).unwrap();
    let mut library = std::fs::read(library).unwrap();
    if let Install::Without(function) = install {
        hide(&mut library, function);
    }
    let first = folder.join("file");
    std::fs::write(&first, library).unwrap();
    // One file under several names is opened once: driver and NCCL share what they know.
    let link = |name: &str| std::fs::hard_link(&first, folder.join(name)).unwrap();
    let names: &[&str] = match install {
        Install::Mock | Install::Sharing | Install::Without(_) => &["libcuda.so.1", "libnccl.so"],
        Install::NoDriver => &["libnccl.so"],
        Install::NoNccl | Install::Real => &["libcuda.so.1"],
        Install::Runtime => &["libcuda.so.1", "libnccl.so.2"],
        Install::Named => &["libcuda.so.1", "other.so"],
    };
    names.iter().for_each(|name| link(name));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env_remove(LIBRARY)
        .env_remove(SHARING)
        .env(CASE, name);
    command.env("LD_LIBRARY_PATH", &folder);
    match (install, real) {
        (Install::Sharing, _) => drop(command.env(SHARING, "1")),
        (Install::Named, _) => drop(command.env(LIBRARY, folder.join("other.so"))),
        (Install::Real, Ok(path)) => drop(command.env(LIBRARY, path)),
        (Install::Real, Err(_)) => return Ok(format!("left out: {LIBRARY} names no file")),
        _ => {}
    }
    let said = folder.join("said");
    let output = std::fs::File::create(&said).unwrap();
    command.stdin(Stdio::null());
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let since = Instant::now();
    let mut child = command.spawn().unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.to_string();
        }
        if since.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            break "it hangs".into();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = std::fs::read_to_string(said).unwrap();
    match status.as_str() {
        "exit status: 0" => Ok(format!("ok ({:.1?})\n{said}", since.elapsed())
            .trim()
            .into()),
        _ => Err(format!("{status}\n{said}")),
    }
}

/// Renames a function in a library, so that it is not found.
fn hide(library: &mut [u8], function: &str) {
    let name = format!("\0{function}\0");
    let found: Vec<usize> = (0..library.len() - name.len())
        .filter(|at| library[*at..].starts_with(name.as_bytes()))
        .collect();
    assert!(!found.is_empty(), "the mock has no {function}");
    for at in found {
        library[at + 1] = b'x';
    }
}
