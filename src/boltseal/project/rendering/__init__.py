"""Images in what the project's own tools print: kustomize, Helm and Docker Compose render, boltseal reads the result."""
