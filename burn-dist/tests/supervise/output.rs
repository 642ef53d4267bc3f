//! What ranks print, on the terminal and in files.

use super::process::{Run, launcher, ranked, run};
use std::time::Duration;

#[test]
fn lines_carry_their_rank_and_do_not_mix() {
    let script = "i=0; while [ $i -lt 300 ]; do \
                  echo \"$RANK out $i of a line that is not so short\"; \
                  echo \"$RANK err $i\" >&2; i=$((i+1)); done";
    let ended = run(3, script);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let out = String::from_utf8(ended.out).unwrap();
    for rank in 0..3 {
        let of = |text: &str| -> Vec<String> {
            let prefix = format!("[{rank}]: ");
            let lines = text.lines().filter_map(|l| l.strip_prefix(&prefix));
            lines.map(str::to_string).collect()
        };
        let expected: Vec<_> = (0..300).map(|i| format!("{rank} err {i}")).collect();
        assert_eq!(of(&ended.err), expected);
        let expected = (0..300).map(|i| format!("{rank} out {i} of a line that is not so short"));
        assert_eq!(of(&out), expected.collect::<Vec<_>>());
    }
    assert_eq!(out.lines().count(), 900);
    assert_eq!(ended.err.lines().count(), 900);
}

#[test]
fn bytes_and_long_lines_arrive_as_they_were() {
    let script = r"printf '\377\000x\n'; head -c 200000 /dev/zero | tr '\0' y; printf '\nno end'";
    let ended = run(1, script);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let mut lines = ended.out.split(|&b| b == b'\n');
    assert_eq!(lines.next().unwrap(), b"[0]: \xff\0x");
    let mut long = 0;
    let rest = lines.find(|line| match line.strip_prefix(b"[0]: ") {
        Some(piece) if piece.iter().all(|&b| b == b'y') => {
            assert!(piece.len() <= 65536);
            long += piece.len();
            false
        }
        _ => true,
    });
    assert_eq!(long, 200_000);
    assert_eq!(rest.unwrap(), b"[0]: no end");
    assert_eq!(lines.next().unwrap(), b"");
}

#[test]
fn logs_hold_what_ranks_print_over_all_attempts() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    let flags = format!(
        "--nproc_per_node=2 --max_restarts=1 --log_dir={}",
        logs.display()
    );
    let script = "printf 'out %s \\377' $BURN_DIST_RESTART_COUNT; echo err >&2; \
                  [ $BURN_DIST_RESTART_COUNT = 1 ] || exit 3";
    let ended = Run::start(&mut launcher(&flags, script)).end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    for rank in 0..2 {
        let read = |name: &str| std::fs::read(logs.join(format!("rank-{rank}/{name}"))).unwrap();
        let text = read("stdout.log");
        assert!(text.starts_with(b"out 0 \xff"), "{text:?}");
        assert!(text.ends_with(b"out 1 \xff"), "{text:?}");
        let text = String::from_utf8(read("stderr.log")).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines[0], lines[2]), ("err", "err"));
        assert!(lines[1].contains("attempt 1"), "{text}");
    }
}

#[test]
fn a_closed_terminal_hurts_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let done = folder.path().join("done");
    let script = format!(
        "i=0; while [ $i -lt 20000 ]; do echo more lines than a pipe holds; i=$((i+1)); done; \
         echo $? > {}",
        done.display()
    );
    // Past the test's own pipes: the reader of this one leaves at once.
    let path = env!("CARGO_BIN_EXE_burn-dist-run");
    let shell = format!("{{ {path} -- sh -c \"$SCRIPT\"; echo ended with $? >&2; }} | true");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &shell]).env("SCRIPT", script);
    let ended = Run::start(&mut command).end();
    assert!(ended.err.contains("ended with 0"), "{}", ended.err);
    assert_eq!(std::fs::read_to_string(done).unwrap(), "0\n");
}

#[test]
fn what_a_rank_started_may_print_its_last_line() {
    // It has a second for that, in which a busy machine may not get to it: one run of a few tells.
    let mut runs = (0..3).map(|_| {
        let ended = run(1, "(sleep 0.2; echo late) & echo early");
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.lines()
    });
    assert!(runs.any(|lines| lines == ["[0]: early", "[0]: late"]));
}

#[test]
fn who_has_left_the_group_for_good_delays_nobody() {
    // Who has not left yet goes with the rank; and nothing but `sleep` is to be left.
    let script = "setsid sh -c ': > $LEFT; exec sleep 100' & \
                  until [ -e $LEFT ]; do sleep 0.05; done; echo done";
    let folder = tempfile::tempdir().unwrap();
    let run = Run::start(ranked(1, script).env("LEFT", folder.path().join("left")));
    let (ended, left) = run.end_with_left();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(ended.lines(), ["[0]: done"]);
    assert_eq!(left.len(), 1, "a new session is a wish to stay");
    assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);
}
