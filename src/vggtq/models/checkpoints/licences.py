"""Licences of published weights, as records, logs and model cards name them."""

PI3_LICENCE = "CC BY-NC 4.0 (non-commercial)"
OMEGA_LICENCE = "FAIR Noncommercial Research License"
# By source; those of other networks' weights belong to the network (`vggtq.models.loading`).
LICENSES = {
    "package:vggt_mini": "Apache-2.0",
    "facebook/VGGT-1B": "CC BY-NC 4.0 (non-commercial)",
    "facebook/VGGT-1B-Commercial": "VGGT commercial licence (gated; accept it on the hub)",
}
