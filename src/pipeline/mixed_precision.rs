//! Which layers of a stage get more bits: all of them are solved as the stage has them, each is
//! tried alone in the original, and the budget goes where most is lost.

use super::walk::Walk;
use super::{StageResult, quantize};
use crate::compress::sensitivity::Trials;
use crate::error::{Error, Result};
use crate::quant::Assembled;
use crate::recipe::{MixedPrecision, Quantize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Gives a plan's layers their schemes where it has two, and has it carried out.
pub fn run(plan: &Quantize, walk: &Walk, carry_out: impl FnOnce(&Quantize) -> Result<StageResult>) -> Result<StageResult> {
    let Some(mixed) = &plan.mixed_precision else { return carry_out(plan) };
    let start = Instant::now();
    let spec = walk.store.spec();
    // What stages before it have searched for was not known when the recipe was checked.
    mixed.check(&plan.schemes, spec).map_err(|reason| Error::Usage(format!("{}: {reason}", plan.method.name())))?;
    let names: BTreeSet<String> = mixed.candidates(&plan.schemes, spec).map(|candidate| candidate.name).collect();
    let solved = solved(plan, &names, walk)?;
    let sensitivities = sensitivities(&solved, &names, walk)?;
    let wide = mixed.allocate(&plan.schemes, spec, &sensitivities);
    let mut allocated = Quantize { mixed_precision: None, ..plan.clone() };
    allocated.schemes.extend(wide.iter().map(|name| (name.clone(), mixed.scheme)));
    let seconds = start.elapsed().as_secs_f64();

    let mut done = carry_out(&allocated)?;
    let bits: f64 = mixed.candidates(&allocated.schemes, spec).map(|c| c.bits).sum();
    let weights: f64 = mixed.candidates(&allocated.schemes, spec).map(|c| c.weights).sum();
    done.report.remarks.push(remark(mixed, &wide, bits / weights, &sensitivities));
    done.report.sensitivities = sensitivities;
    done.report.seconds += seconds;
    Ok(done)
}

/// The layers as the stage alone has them.
fn solved(plan: &Quantize, names: &BTreeSet<String>, walk: &Walk) -> Result<Assembled> {
    let schemes = plan.schemes.iter().filter(|(name, _)| names.contains(*name)).map(|(name, scheme)| (name.clone(), *scheme));
    let alone = Quantize { schemes: schemes.collect(), mixed_precision: None, qat: None, method: plan.untrained_method(), ..plan.clone() };
    let journal = walk.journal.step("sensitivity")?;
    quantize::run(&alone, &Walk { journal: &journal, ..*walk })?;
    journal.model(walk.store.spec())
}

/// Block by block, each kept as soon as it is known.
fn sensitivities(solved: &Assembled, names: &BTreeSet<String>, walk: &Walk) -> Result<BTreeMap<String, f64>> {
    let mut trials = Trials::start(walk.store, solved, names, walk.sample.sequences, walk.compute, walk.progress)?;
    let mut all: BTreeMap<String, f64> = BTreeMap::new();
    for block in 0..walk.store.spec().blocks.len() {
        let mut fresh = false;
        let found: BTreeMap<String, f64> = walk.journal.value(&format!("sensitivity-{block}"), || {
            fresh = true;
            trials.block(block)
        })?;
        if !fresh {
            trials.skip(block);
        }
        all.extend(found);
        trials.advance(block)?;
    }
    walk.progress.end();
    Ok(all)
}

fn remark(mixed: &MixedPrecision, wide: &[String], bits: f64, sensitivities: &BTreeMap<String, f64>) -> String {
    let said: Vec<String> = wide.iter().map(|name| format!("{name} ({:.4})", sensitivities[name])).collect();
    format!(
        "{} of {} layers have {}: {bits:.3} bits a weight of {} that are allowed; in the order of what each alone would cost for each bit \
         more (in all, in nats a token): {}",
        wide.len(),
        sensitivities.len(),
        mixed.scheme,
        mixed.bits_per_weight,
        said.join(", "),
    )
}
