"""Windows onto ecar_lab: pages that show what the package does and compute nothing themselves."""
