//! What is written stands in the file.

use super::messages::{Event, Value, read};
use crate::tensorboard::crc32c::crc32c;
use crate::{EventWriter, Histogram};
use std::path::Path;
use std::process::Command;

fn value(event: &Event) -> &Value {
    let values = &event.summary.as_ref().unwrap().value;
    assert_eq!(values.len(), 1);
    &values[0]
}

#[test]
fn the_checksum_is_that_of_an_independent_crate() {
    let bytes: Vec<u8> = (0..1000_u32).map(|i| (i * i / 7) as u8).collect();
    for length in (0..40).chain([256, 999, 1000]) {
        for start in 0..9.min(bytes.len() - length + 1) {
            let part = &bytes[start..start + length];
            assert_eq!(crc32c(part), crc32c::crc32c(part), "{start} {length}");
        }
    }
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn scalars_and_texts_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(folder.path().join("new/folder")).unwrap();
    let values = [0.25, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0];
    for (step, value) in values.into_iter().enumerate() {
        writer
            .scalar("loss/train", step as u64, 1.5e9 + 0.5, value)
            .unwrap();
    }
    writer.scalar("last", i64::MAX as u64, -1.0, 1.0).unwrap();
    let long = "| größe |\n".repeat(20);
    writer.text("config", 3, 2.0, &long).unwrap();
    writer.flush().unwrap();

    let events = read(writer.path());
    assert_eq!(events[0].file_version, "brain.Event:2");
    for (step, expected) in values.into_iter().enumerate() {
        let event = &events[step + 1];
        assert_eq!(
            (event.step, event.wall_time),
            (step as i64, 1_500_000_000.5)
        );
        assert_eq!(value(event).tag, "loss/train");
        let found = value(event).simple_value.unwrap();
        assert_eq!(found.to_bits(), (expected as f32).to_bits());
    }
    assert_eq!(events[7].step, i64::MAX);
    let text = value(&events[8]);
    let tensor = text.tensor.as_ref().unwrap();
    assert_eq!((tensor.dtype, tensor.string_val.len()), (7, 1));
    assert_eq!(tensor.string_val[0], long.as_bytes());
    assert_eq!(tensor.tensor_shape.as_ref().unwrap().dim, []);
    let metadata = text.metadata.as_ref().unwrap();
    let plugin = metadata.plugin_data.as_ref().unwrap();
    assert_eq!(
        (plugin.plugin_name.as_str(), metadata.data_class),
        ("text", 2)
    );
    assert_eq!(events.len(), 9);
}

#[test]
fn histograms_are_read_back_and_name_what_is_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(folder.path()).unwrap();
    let mut histogram = Histogram::new();
    writer.histogram("nothing", 1, 0.0, &histogram).unwrap();
    histogram.add(&[0.5, 0.5, -2.0, 0.0, f32::NAN, f32::INFINITY]);
    writer.histogram("weights", 2, 0.0, &histogram).unwrap();
    writer.flush().unwrap();

    let events = read(writer.path());
    let empty = value(&events[1]).histo.as_ref().unwrap();
    assert_eq!((empty.num, empty.bucket.len()), (0.0, 0));
    let found = value(&events[2]).histo.as_ref().unwrap();
    assert_eq!((found.min, found.max, found.num), (-2.0, 0.5, 4.0));
    assert_eq!((found.sum, found.sum_squares), (-1.0, 4.5));
    // An empty bucket below each one in use, since these three do not touch each other.
    assert_eq!(found.bucket, [0.0, 1.0, 0.0, 1.0, 0.0, 2.0]);
    let limits = &found.bucket_limit;
    assert!(limits.is_sorted() && limits.len() == 6, "{limits:?}");
    for (at, number) in [(1, -2.0), (3, 0.0), (5, 0.5)] {
        assert!(limits[at - 1] <= number && number < limits[at]);
    }
    let count = value(&events[3]);
    assert_eq!(
        (count.tag.as_str(), count.simple_value),
        ("weights/not_finite", Some(2.0))
    );
    assert_eq!(events.len(), 4);
}

#[test]
fn what_no_reader_takes_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(folder.path()).unwrap();
    let empty = writer.scalar("", 1, 0.0, 1.0).unwrap_err().to_string();
    assert!(empty.contains("an empty tag, step 1 of /"), "{empty}");
    let step = writer.text("a", u64::MAX, 0.0, "").unwrap_err().to_string();
    assert!(step.contains("above 2^63 - 1"), "{step}");
    writer.flush().unwrap();
    assert_eq!(read(writer.path()).len(), 1);

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = EventWriter::create(&file).unwrap_err().to_string();
    assert!(error.contains("cannot create the folder"), "{error}");
}

#[test]
fn files_have_the_names_that_tensorboard_looks_for_and_never_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let writers: Vec<_> = (0..3)
        .map(|_| EventWriter::create(folder.path()).unwrap())
        .collect();
    let names: std::collections::BTreeSet<_> = writers.iter().map(EventWriter::path).collect();
    assert_eq!(names.len(), 3);
    for name in names {
        let name = name.file_name().unwrap().to_str().unwrap();
        let rest = name.strip_prefix("events.out.tfevents.").unwrap();
        let (seconds, rest) = rest.split_once('.').unwrap();
        assert!(seconds.len() == 10 && seconds.parse::<u64>().is_ok());
        let process = format!(".{}.", std::process::id());
        assert!(rest.contains(&process), "{name}");
    }
}

#[test]
fn a_file_of_a_disk_that_is_full_says_so() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        return println!("skipped: there is no /dev/full");
    }
    let mut file = crate::tensorboard::record_file::RecordFile::onto(full).unwrap();
    file.append(b"record").unwrap();
    for _ in 0..2 {
        let error = file.flush().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("/dev/full"));
    }
}

/// The name of the variable by which the test below starts itself as the process that is killed.
const FOLDER: &str = "BURN_DIST_LOG_TEST_FOLDER";

#[test]
fn a_process_that_is_killed_leaves_what_was_flushed() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let mut writer = EventWriter::create(folder).unwrap();
        for step in 0..20_000 {
            writer.scalar("loss", step, 0.0, step as f64).unwrap();
            if step == 9_999 {
                writer.flush().unwrap();
            }
        }
        // Unlike `exit`, runs nothing on the way out.
        std::process::abort();
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "tensorboard::tests::writer::a_process_that_is_killed_leaves_what_was_flushed";
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(FOLDER, folder.path())
        .output()
        .unwrap()
        .status;
    assert!(!status.success());
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(files.len(), 1);
    let events = read(&files[0].as_ref().unwrap().path());
    assert!(
        (10_001..20_001).contains(&events.len()),
        "{} events",
        events.len()
    );
    for (step, event) in events.iter().skip(1).enumerate() {
        assert_eq!(event.step, step as i64);
    }
}
