variable "v" { default = "7" }
job "b" {
  group "g" { task "t" { config { image = "split.example/v:${var.v}" } } }
}
