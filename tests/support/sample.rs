//! Long tests run every one of their cases when they are asked for by name, and a sample of them in a run of everything.

/// One case in how many runs: `KPULL_SAMPLE`, which `tests/run` sets; all of them if it is not set.
pub fn one_in() -> usize {
    std::env::var("KPULL_SAMPLE").map_or(1, |number| number.parse().expect("KPULL_SAMPLE is a number above 0"))
}

/// Every `one_in()`th of the cases. The first one differs from run to run, so that in time all of them have run.
pub fn of<T>(cases: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let first = usize::try_from(std::process::id()).expect("a process id") % one_in();
    cases.skip(first).step_by(one_in())
}
