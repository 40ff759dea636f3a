variable "V" { default = "1" }
target "a" {
  contexts = {
    base = "docker-image://img.example/base:1" # x
    other = "target:decoy"
  }
  tags = ["decoy.example/out:1"]
}
