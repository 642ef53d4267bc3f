//! Samples of this process while it does what they should show.

use crate::Sampler;
use crate::utilisation::sampler::Sources;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(100);

/// Samples until `count` are there, at most for as long as a busy machine may need.
fn wait(sampler: &Sampler, count: usize, mut work: impl FnMut()) -> Vec<crate::Sample> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < count {
        assert!(begun.elapsed() < Duration::from_secs(30));
        work();
        samples.extend(sampler.take());
    }
    samples
}

#[test]
fn samples_come_in_order_and_once() {
    let sampler = Sampler::start(PERIOD).unwrap();
    let samples = wait(&sampler, 3, || std::thread::sleep(PERIOD / 2));
    assert!(samples.is_sorted_by(|a, b| a.time < b.time));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    assert!((samples[0].time - now.as_secs_f64()).abs() < 60.0);
}

#[test]
fn memory_and_cpu_time_are_those_of_this_process() {
    let sampler = Sampler::without_gpus(PERIOD).unwrap();
    let before = wait(&sampler, 1, || std::thread::sleep(PERIOD / 2));
    let held = vec![1_u8; 256 << 20];
    let mut number = 1_u64;
    let after = wait(&sampler, 5, || {
        for step in 0..1_000_000 {
            number = black_box(number.wrapping_mul(step | 1).wrapping_add(7));
        }
    });
    black_box(&held);
    let grown = after[4].memory_bytes.saturating_sub(before[0].memory_bytes);
    // Other tests of this process may free some meanwhile.
    assert!(grown > 128 << 20, "{grown} bytes");
    let busiest = after.iter().map(|sample| sample.cpu_percent);
    let busiest = busiest.fold(0.0, f64::max);
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    // Half of a core, though others use it too; never more than there is, but for ticks of 10 ms.
    assert!(busiest > 20.0, "{busiest} %");
    assert!(busiest < cores * 100.0 + 25.0, "{busiest} %");
}

#[test]
fn bytes_over_loopback_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut from = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut to, _) = listener.accept().unwrap();
    let sampler = Sampler::without_gpus(PERIOD).unwrap();
    let begun = Instant::now();
    let (block, mut taken, mut sent) = (vec![0_u8; 64 << 10], vec![0_u8; 64 << 10], 0);
    let samples = wait(&sampler, 3, || {
        from.write_all(&block).unwrap();
        to.read_exact(&mut taken).unwrap();
        sent += block.len();
    });
    // As bytes were sent all the time, some sample has the mean rate or more.
    let rate = sent as f64 / begun.elapsed().as_secs_f64();
    let most = |of: fn(&crate::Sample) -> f64| samples.iter().map(of).fold(0.0, f64::max);
    let out = most(|sample| sample.net_sent_bytes_per_s);
    let back = most(|sample| sample.net_received_bytes_per_s);
    assert!(out > rate / 2.0 && back > rate / 2.0, "{rate} {out} {back}");
}

#[test]
fn the_thread_ends_with_the_value_and_at_once() {
    let sampler = Sampler::start(Duration::from_secs(3600)).unwrap();
    let begun = Instant::now();
    drop(sampler);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_period_of_nothing_is_an_error() {
    for period in [Duration::ZERO, PERIOD - Duration::from_nanos(1)] {
        let error = Sampler::start(period).unwrap_err().to_string();
        assert!(error.contains("every 100ms at most, not every "), "{error}");
    }
}

#[test]
fn a_sample_is_cheap() {
    let mut sources = Sources::with_gpus().unwrap();
    let mut seconds: Vec<f64> = (0..50)
        .map(|_| {
            let begun = Instant::now();
            sources.sample().unwrap();
            begun.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    println!("{:.3} ms for a sample", seconds[25] * 1e3);
    // The median, as others may take the core; 1 ms of 1 s is a thousandth.
    assert!(
        cfg!(debug_assertions) || seconds[25] < 1e-3,
        "{} s",
        seconds[25]
    );
}
