"""The dimensions along which work is cut: a partition has a key for some of them."""

BOLD_RUN, LABEL_FILE, N_COMPONENTS = "bold_run", "label_file", "n_components"
SUBJECT = "subject"
