//! Which inputs of a block's linear layers can be scaled at no cost: where the producer of an
//! input is linear in parameters that are stored, these can be divided channel by channel, and
//! the columns that read the input multiplied by the same.

use super::ModelSpec;
use crate::forward::trace::{Producer, ScaleMigration, Trace};

impl ModelSpec {
    /// Scale migrations of a block; each input is in one of them.
    pub fn scale_migrations(&self, block: usize) -> Vec<ScaleMigration> {
        let Trace { groups, mut migrations } = Trace::of(&self.blocks[block], self.hidden_size);
        for migration in &mut migrations {
            let source = match migration.producer {
                Producer::Norm { name, .. } | Producer::Rows { name, .. } => name,
                Producer::Nothing(_) => continue,
            };
            let mut readers = groups.iter().filter(|group| migration.inputs.contains(&group.input)).flat_map(|group| &group.linears);
            if readers.any(|reader| self.users(block, &reader.name.to_string()) != self.users(block, &source.to_string())) {
                migration.producer = Producer::Nothing("other blocks share its weights, but not what makes its input");
            }
        }
        migrations
    }

    /// The blocks that use the weights that a block has at a role.
    fn users(&self, block: usize, role: &str) -> Vec<usize> {
        let owner = self.owner(block, role);
        (0..self.blocks.len()).filter(|&other| self.owner(other, role) == owner).collect()
    }
}
