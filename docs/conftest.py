"""What of this folder holds no tests: scripts that draw figures, extensions of Sphinx, and generated pages."""

collect_ignore_glob = ["figures/*", "_ext/*", "api/*", "gen_modules/*"]
