//! x
use dispatch_sim::run::{run, trace};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n: u64 = a[2].parse().unwrap();
    if a[1] == "run" {
        let o = trace(n, Box::new(|l| println!("{l}")));
        println!("{o:?}");
        if let Some(v) = o.violation { println!("{v}"); }
    } else {
        let s = dispatch_sim::sweep::sweep(a.get(3).map_or(0, |k| k.parse().unwrap())..n, 2, run, |_| {});
        println!("{} seeds {} events {:.1} h {:?} {:.1}/s", s.seeds, s.events, s.simulated_hours(), s.took, s.seeds_per_s());
        if let Some(v) = s.violation { println!("{v}"); }
    }
}
