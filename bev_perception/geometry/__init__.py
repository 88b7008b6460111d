"""Pure geometry: rigid transforms, camera models, the BEV grid. numpy only."""
