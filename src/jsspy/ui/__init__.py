"""The flame graph viewer: HTML, JavaScript and CSS, embedded into one file by `formats.html`."""
