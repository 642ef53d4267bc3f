//! The lines of `utilisation.csv`.

use crate::{GpuSample, Sample};

fn lines(sample: &Sample, rank: usize, host: &str) -> String {
    let mut lines = Vec::new();
    sample.write_csv(&mut lines, rank, host).unwrap();
    String::from_utf8(lines).unwrap()
}

#[test]
fn each_gpu_has_a_line_and_no_gpu_has_one() {
    let mut sample = Sample {
        time: 1_700_000_000.125,
        cpu_percent: 187.25,
        memory_bytes: 1 << 33,
        net_sent_bytes_per_s: 12.5e6,
        net_received_bytes_per_s: 0.0,
        gpus: Vec::new(),
    };
    let process = "1700000000.125,2,node-a,187.2,8589934592,12500000,0";
    assert_eq!(lines(&sample, 2, "node-a"), format!("{process},,,\n"));
    sample.gpus = vec![
        GpuSample {
            gpu: 0,
            gpu_percent: Some(97.0),
            gpu_memory_bytes: Some(1 << 30),
        },
        GpuSample {
            gpu: 1,
            ..GpuSample::default()
        },
    ];
    let expected = format!("{process},0,97,1073741824\n{process},1,,\n");
    assert_eq!(lines(&sample, 2, "node-a"), expected);
    for line in expected.lines() {
        assert_eq!(line.split(',').count(), Sample::HEADER.split(',').count());
    }
}

#[test]
fn a_host_that_holds_what_ends_a_field_is_quoted() {
    let host = |name| lines(&Sample::default(), 0, name);
    assert!(host("a,\"b\"").starts_with("0.000,0,\"a,\"\"b\"\"\",0.0,"));
    assert!(host("a\nb").starts_with("0.000,0,\"a\nb\",0.0,"));
    assert!(host("").starts_with("0.000,0,,0.0,"));
    let columns = "time,rank,host,cpu_percent,memory_bytes,net_sent_bytes_per_s,net_received_bytes_per_s,gpu,\
                   gpu_percent,gpu_memory_bytes";
    assert_eq!(Sample::HEADER, columns);
}

#[test]
fn samples_travel_between_ranks() {
    let sample = Sample {
        time: 1.5,
        gpus: vec![GpuSample::default()],
        ..Sample::default()
    };
    let text = serde_json::to_string(&sample).unwrap();
    assert_eq!(serde_json::from_str::<Sample>(&text).unwrap(), sample);
}
