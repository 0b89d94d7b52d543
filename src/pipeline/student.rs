//! A stage that makes a student: another spec, and weights selected or drawn.

use super::StageResult;
use super::journal::{PartResult, StageJournal};
use crate::error::{Error, Result};
use crate::model::StudentShape;
use crate::quant::{Weight, WeightStore};
use crate::report::StageReport;
use std::sync::Arc;
use std::time::Instant;

/// Runs the stage on the teacher's weights.
pub fn run(shape: &StudentShape, teacher: &dyn WeightStore, journal: &StageJournal) -> Result<StageResult> {
    let start = Instant::now();
    // What stages before it have searched for was not known when the recipe was checked.
    let spec = shape.apply(teacher.spec()).map_err(|reason| Error::Usage(format!("student: {reason}")))?;
    let weight = |p: crate::model::Parameter| {
        let values = shape.starting_weight(&p, teacher.spec(), &spec, |name| Ok(teacher.weight(name)?.to_f32().into_owned()))?;
        let weight = Weight::from_f32(&p.name, p.shape, &values);
        Ok((p.name, weight))
    };
    for part in spec.parts() {
        journal.part(&spec, part, || {
            let weights = spec.parameters_of(part).map(weight).collect::<Result<_>>()?;
            Ok(PartResult { weights, layers: Vec::new() })
        })?;
    }
    let report = StageReport::of("student", start.elapsed().as_secs_f64());
    Ok(StageResult { model: Arc::new(journal.model(&spec)?), report })
}
