//! What a step's request says.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

use super::World;
use crate::kit::Ctx;
use crate::reconcile::repair;
use crate::transcript::Item;
use crate::wire::request::{ChatOptions, ToolSpec, chat_request};

impl World {
    /// Repairs the transcript and writes the request, once (L5, T13).
    pub(super) fn prepare(&mut self, ctx: &mut Ctx<'_>, model: &str, items: Vec<Item>) {
        let (items, repairs) = repair(items);
        if repairs.any() {
            let message = alloc::format!(
                "the transcript was repaired: {} tool calls had no result, {} results had no call, {} messages were empty",
                repairs.answered,
                repairs.orphans,
                repairs.empty
            );
            self.warnings
                .push(("transcript-repaired".to_owned(), message));
        }
        for item in &items {
            if let Item::Assistant { calls, .. } = item {
                self.used_ids
                    .extend(calls.iter().map(|call| call.call_id.clone()));
            }
        }
        let tools = if self.offers_tools {
            offered_tools()
        } else {
            Vec::new()
        };
        self.body = chat_request(
            model,
            &ctx.config.system_prompt,
            &items,
            &tools,
            &ChatOptions::default(),
        );
    }
}

fn offered_tools() -> Vec<ToolSpec> {
    crate::tools::TOOLS
        .iter()
        .filter_map(|tool| ToolSpec::new(tool.name, tool.description, tool.parameters).ok())
        .collect()
}
