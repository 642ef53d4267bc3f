//! Saves on an S3 server, where `BURN_DIST_PYTHON` names a Python with `moto[server]`: processes that are killed and
//! go on, and errors of the store.

use crate::contents::Contents;
use crate::program::{STEPS, command, run};
use burn_dist::checkpoint::Keep;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Makes a bucket, or copies all of one to a folder.
const CLIENT: &str = "
import boto3, pathlib, sys
s3 = boto3.resource('s3', endpoint_url=sys.argv[1], region_name='us-east-1',
                    aws_access_key_id='key', aws_secret_access_key='secret')
if len(sys.argv) == 2:
    s3.create_bucket(Bucket='bucket')
else:
    for item in s3.Bucket('bucket').objects.all():
        path = pathlib.Path(sys.argv[2], item.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.get()['Body'].read())
";

struct Server {
    python: OsString,
    process: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// None where there is no Python that has one.
    fn start() -> Option<Self> {
        let python = std::env::var_os("BURN_DIST_PYTHON")?;
        let has = Command::new(&python)
            .args(["-c", "import boto3, flask, moto.server"])
            .stderr(Stdio::null())
            .status();
        if !has.is_ok_and(|status| status.success()) {
            return None;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let process = Command::new(&python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p"])
            .arg(address.port().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            python,
            process,
            url: format!("http://{address}"),
        };
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "the server does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        server.client(None);
        Some(server)
    }

    fn client(&self, folder: Option<&Path>) {
        let mut client = Command::new(&self.python);
        client.args(["-c", CLIENT]).arg(&self.url).args(folder);
        assert!(client.status().unwrap().success());
    }

    /// A process of a run that saves at a URL.
    fn command(&self, url: &str, until: usize) -> Command {
        let mut command = command(Path::new(url), until);
        command
            .env("AWS_ENDPOINT_URL", &self.url)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret");
        command
    }
}

fn error_of(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(7), "{text}");
    text
}

#[test]
fn a_run_that_is_killed_while_it_saves_to_s3_goes_on() {
    let Some(server) = Server::start() else {
        return println!("skipped: BURN_DIST_PYTHON names no Python with moto[server]");
    };
    for number in 0..4 {
        let mut process = server.command("s3://bucket/runs/1", STEPS).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(400 + 171 * number));
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let end = server
        .command("s3://bucket/runs/1", STEPS)
        .output()
        .unwrap();
    assert!(
        end.status.success(),
        "{}",
        String::from_utf8_lossy(&end.stderr)
    );
    let (copy, never_killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    server.client(Some(copy.path()));
    run(never_killed.path(), STEPS, &Keep::last(1).unwrap()).unwrap();
    // Two saves of a manifest and two files stay; of others nothing but the empty manifests that end them.
    let folder = copy.path().join("runs/1");
    let saves = std::fs::read_dir(folder).unwrap().flatten();
    let saves = saves.map(|entry| entry.path()).filter(|path| path.is_dir());
    let complete = saves.filter(|save: &PathBuf| {
        let manifest = std::fs::metadata(save.join("manifest.json")).unwrap().len();
        let files = std::fs::read_dir(save).unwrap().count();
        assert_eq!(
            files,
            if manifest == 0 { 1 } else { 3 },
            "{}",
            save.display()
        );
        manifest > 0
    });
    let mut complete: Vec<PathBuf> = complete.collect();
    complete.sort();
    assert_eq!(complete.len(), 2);
    let name = complete[1].file_name().unwrap().to_string_lossy();
    assert!(name.starts_with(&format!("step-{STEPS:08}")), "{name}");
    let found = Contents::of_save(&complete[1]);
    found.expect(&Contents::of(never_killed.path()), "killed four times");
}

#[test]
fn what_the_store_refuses_is_an_error_that_says_what_to_do() {
    let Some(server) = Server::start() else {
        return println!("skipped: BURN_DIST_PYTHON names no Python with moto[server]");
    };
    let error = error_of(server.command("s3://other/runs/1", 2));
    assert!(
        error.contains("no such bucket") && error.contains("s3://other/runs/1"),
        "{error}"
    );
    // No request comes through; the number of attempts is bounded.
    let mut unreachable = server.command("s3://bucket/runs/1", 2);
    unreachable.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    let begun = Instant::now();
    let error = error_of(unreachable);
    assert!(error.contains("s3://bucket/runs/1"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(90));
}
