target "a" {
  dockerfile-inline = <<EOT
FROM img.example/inline:1
EOT
}
