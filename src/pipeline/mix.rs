//! What a mix of two schemes gives to whom: all layers are solved by the cheaper one, each is
//! tried alone in the original, and the budget goes to those whose loss is greatest.

use super::walk::Walk;
use super::{Done, quantize};
use crate::compress::sensitivity::sensitivities;
use crate::error::Result;
use crate::model::ModelSpec;
use crate::recipe::{Mix, Quantize};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// What is kept of it for a run that goes on.
#[derive(Deserialize, Serialize)]
struct Found {
    /// By canonical name.
    sensitivities: BTreeMap<String, f64>,
    seconds: f64,
}

/// Gives a plan's layers their schemes where it mixes some, and has it carried out.
pub fn run(plan: &Quantize, walk: &Walk, carry_out: impl FnOnce(&Quantize) -> Result<Done>) -> Result<Done> {
    let Some(mix) = &plan.mix else { return carry_out(plan) };
    let spec = walk.store.spec();
    let names: BTreeSet<String> = mix.layers(&plan.schemes, spec).map(|layer| layer.name).collect();
    let Found { sensitivities, seconds } = walk.journal.value("mix", || {
        let start = Instant::now();
        let schemes = plan.schemes.iter().filter(|(name, _)| names.contains(*name)).map(|(name, scheme)| (name.clone(), *scheme));
        let cheap = Quantize { schemes: schemes.collect(), mix: None, aware: None, method: plan.untrained_method(), ..plan.clone() };
        let solved = quantize::run(&cheap, &Walk { journal: &walk.journal.step("mix")?, ..*walk })?;
        let sensitivities = sensitivities(walk.store, &*solved.model, &names, walk.sample.sequences, walk.compute, walk.progress)?;
        Ok(Found { sensitivities, seconds: start.elapsed().as_secs_f64() })
    })?;
    let richer = mix.richer(&plan.schemes, spec, &sensitivities);
    let mut given = Quantize { mix: None, ..plan.clone() };
    given.schemes.extend(richer.iter().map(|name| (name.clone(), mix.scheme)));
    let mut done = carry_out(&given)?;
    done.report.remarks.push(remark(mix, &given, spec, &richer, &sensitivities));
    done.report.seconds += seconds;
    Ok(done)
}

/// Who got what, the most sensitive first.
fn remark(mix: &Mix, given: &Quantize, spec: &ModelSpec, richer: &[String], sensitivities: &BTreeMap<String, f64>) -> String {
    let (mut bits, mut weights) = (0.0, 0.0);
    for layer in mix.layers(&given.schemes, spec) {
        bits += layer.bits;
        weights += layer.weights;
    }
    let said = |name: &String| format!("{name} ({:.4})", sensitivities[name]);
    format!(
        "{} of {} layers in {}, {:.3} bits a weight of a budget of {}; by what each alone costs in nats a token: {}",
        richer.len(),
        sensitivities.len(),
        mix.scheme,
        bits / weights,
        mix.budget,
        if richer.is_empty() { "none fits".to_owned() } else { richer.iter().map(said).collect::<Vec<_>>().join(", ") },
    )
}
