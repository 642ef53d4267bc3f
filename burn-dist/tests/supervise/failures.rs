//! What ranks fail of, and what becomes of the others.

use super::process::{Run, launcher, ranked, run};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

#[test]
fn the_code_of_the_failed_rank_is_the_launchers() {
    let ended = run(3, "[ $RANK = 1 ] && exit 7; exit 0");
    assert_eq!(ended.code, Some(7), "{}", ended.err);
    let last = ended.err.lines().last().unwrap();
    assert!(last.starts_with("burn-dist-run: rank 1 on "), "{last}");
    assert!(last.ends_with(" exited with code 7"), "{last}");
    assert!(
        ended.err.contains("burn-dist: first     1  "),
        "{}",
        ended.err
    );
}

#[test]
fn a_killed_rank_ends_the_others() {
    let script = "if [ $RANK = 1 ]; then sleep 0.2; kill -9 $$; fi; exec sleep 100";
    let ended = Run::start(ranked(3, script).env("BURN_DIST_FAIL_GRACE", "0.3")).end();
    assert_eq!(ended.code, Some(137), "{}", ended.err);
    let err = &ended.err;
    assert!(
        err.contains("rank 1 was killed by signal 9 (SIGKILL); ranks 0,2 may end"),
        "{err}"
    );
    assert!(err.contains("ranks 0,2 do not end: SIGTERM"), "{err}");
    assert!(err.contains("ranks 0-2 failed, of 3 on "), "{err}");
    assert!(ended.took > Duration::from_millis(500), "{:?}", ended.took);
}

#[test]
fn others_that_do_not_even_heed_sigterm_are_killed() {
    // One fails when the other is deaf.
    let script = "trap '' TERM; [ $RANK = 0 ] && : > $DEAF; until [ -e $DEAF ]; do sleep 0.05; done; \
                  [ $RANK = 1 ] && exit 4; while true; do sleep 0.05; done";
    let folder = tempfile::tempdir().unwrap();
    let mut command = ranked(2, script);
    command.env("DEAF", folder.path().join("deaf"));
    let ended = Run::start(command.env("BURN_DIST_FAIL_GRACE", "0.3")).end();
    assert_eq!(ended.code, Some(4), "{}", ended.err);
    assert!(
        ended.err.contains("rank 0 is still there: SIGKILL"),
        "{}",
        ended.err
    );
}

#[test]
fn what_ranks_have_started_goes_with_them() {
    let ended = run(
        2,
        "sleep 100 >/dev/null 2>&1 & sleep 100 & exit $((RANK * 5))",
    );
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);
}

#[test]
fn the_first_failure_is_found_by_what_ranks_say() {
    let script = r#"
        say() { echo "{\"message\": {\"message\": \"$1\", \"extraInfo\":
            {\"timestamp\": \"1700000000\", \"secondary\": $2, \"rank\": $RANK}}}" \
            > $TORCHELASTIC_ERROR_FILE; }
        case $RANK in
            0) say 'rank 1 failed: no more disk' true; exit 1;;
            1) sleep 0.3; say 'no more disk' false; exit 9;;
            2) exit 3;;
        esac"#;
    let ended = run(3, script);
    assert_eq!(ended.code, Some(9), "{}", ended.err);
    let last = ended.err.lines().last().unwrap();
    assert!(
        last.ends_with(" exited with code 9: no more disk"),
        "{last}"
    );
    let table: Vec<_> = ended
        .err
        .lines()
        .filter(|l| l.contains("exited with code"))
        .collect();
    let rows = table
        .iter()
        .filter(|l| l.starts_with("burn-dist: ") && !l.contains("may end"));
    let rows: Vec<_> = rows.collect();
    assert!(rows[0].contains("first     1"), "{}", ended.err);
    assert!(
        rows[1].ends_with("rank 1 failed: no more disk"),
        "{}",
        ended.err
    );
}

#[test]
fn records_of_the_last_collectives_are_put_side_by_side() {
    let script = r#"
        [ $RANK = 1 ] && kill -9 $$
        echo '{"rank": 0, "world": 2, "host": "h", "pid": 1, "step": 3, "error": "no", "events":
            [{"group": [[0, 1]], "sequence": 17, "op": "all_gather", "unit": "blocks.1",
            "dtype": "f32", "len": 8, "step": 3, "issued_us": 5, "state": "failed",
            "took_us": 9}]}' > $BURN_DIST_FLIGHT_DIR/flight-0.json
        exit 1"#;
    let ended = run(2, script);
    assert_eq!(ended.code, Some(137), "{}", ended.err);
    let waits = "rank 0 waits in all_gather of blocks.1 #17, step 3 (group 0,1) for rank 1";
    assert!(ended.err.contains(waits), "{}", ended.err);
    let gone = "rank 1 left no record: it was killed by signal 9 (SIGKILL)";
    assert!(ended.err.contains(gone), "{}", ended.err);
}

#[test]
fn a_failed_group_is_started_again_as_often_as_asked() {
    let script = "echo $BURN_DIST_RESTART_COUNT $TORCHELASTIC_RESTART_COUNT \
                  $TORCHELASTIC_MAX_RESTARTS $RANK; exit 6";
    let ended = Run::start(&mut launcher("--nproc-per-node 2 --max-restarts 2", script)).end();
    assert_eq!(ended.code, Some(6), "{}", ended.err);
    let lines = (0..2).flat_map(|r| (0..3).map(move |n| format!("[{r}]: {n} {n} 2 {r}")));
    assert_eq!(ended.lines(), lines.collect::<Vec<_>>());
    let again = "starting all ranks of this host again: restart 2 of 2";
    assert!(ended.err.contains(again), "{}", ended.err);

    let script = "[ $BURN_DIST_RESTART_COUNT = 1 ] && exit 0; exit 1";
    let ended = Run::start(&mut launcher("--nproc-per-node 2 --max-restarts 2", script)).end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[test]
fn ranks_find_their_place_in_the_environment() {
    let mut command = ranked(
        2,
        "env | grep -E '^(BURN_DIST_|TORCHELASTIC|RANK|OMP|RAYON)'",
    );
    let run = Run::start(command.env("TORCHELASTIC_USE_AGENT_STORE", "True"));
    let launcher = run.pid().to_string();
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let lines = ended.lines();
    let of = |rank: usize| -> BTreeMap<&str, &str> {
        let lines = lines
            .iter()
            .filter_map(|l| l.strip_prefix(&format!("[{rank}]: ")));
        lines.filter_map(|l| l.split_once('=')).collect()
    };
    let (first, second) = (of(0), of(1));
    assert_eq!((first["RANK"], second["RANK"]), ("0", "1"));
    assert_eq!(
        (
            first["BURN_DIST_LOCAL_RANK"],
            second["BURN_DIST_LOCAL_RANK"]
        ),
        ("0", "1")
    );
    assert_eq!(first["BURN_DIST_PARENT"], launcher);
    assert_eq!(first["BURN_DIST_MASTER_ADDR"], "127.0.0.1");
    assert_eq!(first["BURN_DIST_SECRET"], second["BURN_DIST_SECRET"]);
    assert_eq!(first["BURN_DIST_SECRET"].len(), 32);
    let cores = std::thread::available_parallelism().unwrap().get();
    let threads = (cores / 2).max(1).to_string();
    assert_eq!(
        (first["RAYON_NUM_THREADS"], first["OMP_NUM_THREADS"]),
        (&*threads, &*threads)
    );
    let errors = [&first, &second].map(|v| v["TORCHELASTIC_ERROR_FILE"]);
    assert_ne!(errors[0], errors[1]);
    assert!(!first.contains_key("TORCHELASTIC_USE_AGENT_STORE"));
    // The private folder is gone.
    assert!(!std::path::Path::new(first["BURN_DIST_FLIGHT_DIR"]).exists());
}

#[test]
fn the_master_port_is_kept_for_rank_0() {
    let script = "echo port $BURN_DIST_MASTER_PORT reserved $BURN_DIST_PORT_RESERVED; sleep 100";
    let mut run = Run::start(&mut ranked(1, script));
    run.until("reserved 1\n", 1);
    let port = run.out().split(' ').nth(2).unwrap().parse::<u16>().unwrap();
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "{port}");
    run.signal(rustix::process::Signal::TERM);
    run.end();
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "{port}");
}

#[test]
fn a_program_that_cannot_be_run_is_said_so() {
    let path = env!("CARGO_BIN_EXE_burn-dist-run");
    let start = |program: &std::path::Path| {
        let mut command = std::process::Command::new(path);
        command
            .args(["--nproc-per-node=2", "--no_python"])
            .arg(program);
        Run::start(command.arg("--flag")).end()
    };
    let missing = start("no/such/program".as_ref());
    assert_eq!(missing.code, Some(127), "{}", missing.err);
    assert!(
        missing.err.contains("no/such/program: No such file"),
        "{}",
        missing.err
    );
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    let refused = start(&text);
    assert_eq!(refused.code, Some(126), "{}", refused.err);
    assert!(
        refused.err.contains("is it an executable file"),
        "{}",
        refused.err
    );
}

#[test]
fn arguments_reach_the_program_as_they_are() {
    let path = env!("CARGO_BIN_EXE_burn-dist-run");
    let mut command = std::process::Command::new(path);
    command.args(["--no-python", "echo", "--nproc-per-node", "3", "--", "-x"]);
    let ended = Run::start(&mut command).end();
    assert_eq!(
        ended.lines(),
        ["[0]: --nproc-per-node 3 -- -x"],
        "{}",
        ended.err
    );
    let mut command = ranked(0, "exit 0");
    let ended = Run::start(&mut command).end();
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.err.contains("found \"0\"") || ended.err.contains("found 0"),
        "{}",
        ended.err
    );
}

#[test]
fn a_wrong_range_is_an_error_that_names_its_flag() {
    for (flags, flag) in [
        ("--nnodes 3:2", "--nnodes"),
        ("--nnodes 0:2", "--nnodes"),
        ("--nnodes 1:two", "--nnodes"),
        ("--nproc-per-node 3:2", "--nproc-per-node"),
        ("--nproc-per-node 0:2", "--nproc-per-node"),
        ("--nproc-per-node 1:", "--nproc-per-node"),
        ("--nproc-per-node 1:2 --rejoin soon", "--rejoin"),
        ("--nproc-per-node 1:2 --rejoin 0", "--rejoin"),
    ] {
        let ended = Run::start(&mut launcher(flags, "true")).end();
        assert_eq!(ended.code, Some(2), "{flags}: {}", ended.err);
        assert!(ended.err.contains(flag), "{flags}: {}", ended.err);
    }
    let ended = Run::start(&mut launcher("--nproc-per-node 2 --rejoin 5", "true")).end();
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains("--rejoin: expected a range MIN:MAX"),
        "{}",
        ended.err
    );
}

#[test]
fn ranks_of_another_library_are_given_up_too() {
    // Rank 1 of three cannot be started again; it has no file in which it could say that it came up.
    let script = "echo $RANK of $WORLD_SIZE; [ $WORLD_SIZE = 2 ] && exit 0; \
                  [ $RANK = 1 ] && exit 5; sleep 30";
    let flags = "--nproc-per-node 2:3 --max-restarts 3 --rejoin 20";
    let mut command = launcher(flags, script);
    let ended = Run::start(command.env("BURN_DIST_FAIL_GRACE", "0.2")).end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let line = "restart 2 of 3: 2 of 3 ranks, rank 1 on ";
    assert!(ended.err.contains(line), "{}", ended.err);
    assert!(ended.lines().contains(&"[1]: 1 of 2".to_string()));
}

#[test]
fn an_unknown_flag_is_not_taken_for_the_program() {
    let path = env!("CARGO_BIN_EXE_burn-dist-run");
    for flag in ["--nproc-per-nod", "--rdzv-backend=c10d"] {
        let ended = Run::start(std::process::Command::new(path).args([flag, "true"])).end();
        assert_eq!(ended.code, Some(2));
        let refused = format!("unexpected argument '{flag}'");
        assert!(ended.err.contains(&refused), "{}", ended.err);
    }
    // How often to restart says nothing about processes: as with torchrun there is one.
    let ended = Run::start(std::process::Command::new(path).args(["--max-restarts", "1", "true"]));
    assert_eq!(ended.end().code, Some(0));
}
