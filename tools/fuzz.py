#!/usr/bin/env python3
"""Runs every fuzz target for a while, as many at once as there are cores; new finds stay in .fuzz.

    tools/fuzz.py           run; a crash is an input in .fuzz/found/<target>, whose bytes the engine prints
    tools/fuzz.py keep      take what the runs found into fuzz/corpus, as few files as cover the same
    tools/fuzz.py TARGET…   run these only

FUZZ_SECONDS is the time of each target, 60 without it. FUZZ_SEED is the engine's seed; any without it.
Ends with 0 only if every target ran and nothing was found. A find becomes a test by its file in fuzz/regressions.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz/corpus"
WORK = ROOT / ".fuzz"
BUILT = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug"
SECONDS = int(os.environ.get("FUZZ_SECONDS") or 60)

# Longest time of one input, and most memory of a target: what is slower or larger is a find.
INPUT_MAX_SECONDS = 10
MEMORY_MAX_MB = 1024
INPUT_MAX_BYTES = 4096
# What the engine may need to start and to end beyond its time.
SLACK_SECONDS = 120
LOG_LINES_SHOWN = 60
# The engine names an input by its SHA-1; any other name was given by a person, and such an input stays.
NAME_OF_ENGINE = re.compile("[0-9a-f]{40}")


def build(targets):
    """Builds the targets. The whole workspace is named so that its dependencies are the ones that tests have built."""
    words = ["cargo", "build", "--workspace", "--features", "fuzz/engine"]
    for target in targets:
        words += ["--bin", f"fuzz_{target}"]
    env = {**os.environ, "RUSTC_WORKSPACE_WRAPPER": str(ROOT / "tools/rustc-for-fuzz.sh")}
    subprocess.run(words, cwd=ROOT, env=env, check=True)


def engine(target, *words):
    """Runs the engine; its code and what it printed."""
    limit = SECONDS + SLACK_SECONDS
    try:
        run = subprocess.run([BUILT / f"fuzz_{target}", *map(str, words)], cwd=WORK, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit, check=False)
    except subprocess.TimeoutExpired as late:
        return -1, f"{(late.stdout or b'').decode(errors='replace')}\nstill running after {limit} s"
    return run.returncode, run.stdout.decode(errors="replace")


def run(target):
    """Runs a target for its time; a line that sums it up, and whether it is a good one."""
    grown, found = WORK / "corpus" / target, WORK / "found" / target
    for folder in (grown, found):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    words = [grown, CORPUS / target, f"-max_total_time={SECONDS}", f"-timeout={INPUT_MAX_SECONDS}",
             f"-rss_limit_mb={MEMORY_MAX_MB}", f"-max_len={INPUT_MAX_BYTES}", f"-artifact_prefix={found}/",
             "-print_final_stats=1", *filter(None, [os.environ.get("FUZZ_SEED") and f"-seed={os.environ['FUZZ_SEED']}"])]
    code, printed = engine(target, *words)
    executions = int((re.findall(r"stat::number_of_executed_units: (\d+)", printed) or [0])[-1])
    coverage = [int(found) for found in re.findall(r"\bcov: (\d+)", printed)]
    finds = sorted(set(found.iterdir()) - before)
    is_good = code == 0 and executions > 0 and bool(coverage) and coverage[-1] > 0 and not finds
    line = f"{target} {executions} executions, coverage {coverage[0] if coverage else 0} to {max(coverage, default=0)}"
    if not is_good:
        print("\n".join(printed.splitlines()[-LOG_LINES_SHOWN:]))
        print(f"fuzz: {target}: FAILED with {code}; finds: {', '.join(map(str, finds)) or 'none'}", flush=True)
    return line, is_good


def keep(target):
    """Takes the finds of the runs into the corpus: as few as go through the same branches, beside hand-written ones."""
    merged, grown = WORK / "merged" / target, WORK / "corpus" / target
    shutil.rmtree(merged, ignore_errors=True)
    for folder in (merged, grown):
        folder.mkdir(parents=True, exist_ok=True)
    for path in (CORPUS / target).iterdir():
        if not NAME_OF_ENGINE.fullmatch(path.name):
            shutil.copy(path, merged)
    # Without counters: how often a branch is taken makes ten times as many inputs, and finds nothing more here.
    code, printed = engine(target, "-set_cover_merge=1", "-use_counters=0", merged, CORPUS / target, grown)
    kept = list(merged.iterdir())
    if code or not kept:
        print(printed)
        return f"{target} FAILED with {code}", False
    shutil.rmtree(CORPUS / target)
    shutil.copytree(merged, CORPUS / target)
    return f"{target} {len(kept)} inputs", True


def main():
    """Runs or keeps; the exit code says whether all went well."""
    targets = sorted(path.stem for path in (ROOT / "fuzz/targets").glob("*.rs"))
    chosen = [word for word in sys.argv[1:] if word != "keep"]
    if unknown := set(chosen) - set(targets):
        print(f"fuzz: there is no target {', '.join(unknown)}; there are {', '.join(targets)}")
        return 2
    chosen = chosen or targets
    WORK.mkdir(exist_ok=True)
    build(chosen)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = list(pool.map(keep if "keep" in sys.argv[1:] else run, chosen))
    is_good = bool(results) and all(good for _, good in results)
    print(f"fuzz: {'ok' if is_good else 'FAILED'}: {'; '.join(line for line, _ in results)}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
