//! TensorBoard's own reader, where `BURN_DIST_PYTHON` names a Python with tensorboard.

use crate::{EventWriter, Histogram};
use std::process::Command;

/// Prints what `EventAccumulator` reads, and the histogram's buckets as TensorBoard's pages get them.
const PROGRAM: &str = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as OfPlugins
from tensorboard.util import tensor_util
read = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'histograms': 0, 'tensors': 0})
read.Reload()
for event in read.Scalars('loss/train'):
    print('scalar', event.step, event.wall_time, event.value)
for event in read.Histograms('weights'):
    value = event.histogram_value
    print('histogram', event.step, value.min, value.max, value.num, value.sum, value.sum_squares)
    print('buckets', len(value.bucket), len(value.bucket_limit), sum(value.bucket))
for event in read.Tensors('config'):
    print('text', event.step, event.tensor_proto.string_val[0].decode())
pages = OfPlugins(sys.argv[1])
pages.Reload()
for plugin in ['scalars', 'histograms', 'text']:
    print(plugin, sorted(pages.PluginTagToContent(plugin)))
shown = tensor_util.make_ndarray(pages.Tensors('weights')[0].tensor_proto)
print('shown', shown.shape[1], shown[0][0], shown[-1][1], shown[:, 2].sum())
";

#[test]
fn tensorboard_reads_what_is_written() {
    let Some(python) = std::env::var_os("BURN_DIST_PYTHON") else {
        return println!("skipped: BURN_DIST_PYTHON names no Python with tensorboard");
    };
    let has = Command::new(&python)
        .args(["-c", "import tensorboard"])
        .output();
    if !has.is_ok_and(|has| has.status.success()) {
        return println!("skipped: BURN_DIST_PYTHON names a Python without tensorboard");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(folder.path()).unwrap();
    for (step, value) in [(1, 0.5), (2, f64::NAN), (300, f64::NEG_INFINITY)] {
        writer.scalar("loss/train", step, 10.5, value).unwrap();
    }
    writer.text("config", 0, 10.5, "**größe** 3").unwrap();
    let mut weights = Histogram::new();
    weights.add(&[-0.75, -0.5, 0.0, 0.25, 1.5]);
    writer.histogram("weights", 7, 10.5, &weights).unwrap();
    writer.flush().unwrap();

    let mut command = Command::new(&python);
    let read = command.args(["-c", PROGRAM]).arg(folder.path());
    let read = read.env("PYTHONIOENCODING", "utf-8").output().unwrap();
    let complaints = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{complaints}");
    let lines = [
        "scalar 1 10.5 0.5",
        "scalar 2 10.5 nan",
        "scalar 300 10.5 -inf",
        "histogram 7 -0.75 1.5 5.0 0.5 3.125",
        "buckets 10 10 5.0",
        "text 0 **größe** 3",
        "scalars ['loss/train']",
        "histograms ['weights']",
        "text ['config']",
        "shown 3 -0.75 1.5 5.0",
        "",
    ];
    assert_eq!(String::from_utf8(read.stdout).unwrap(), lines.join("\n"));
}
