variable "task" {
  default = {
    image = "report.example/pack:1"
  }
}
