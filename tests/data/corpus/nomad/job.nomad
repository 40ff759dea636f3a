job "a" {
  group "g" {
    task "t" {
      config {
        image = "img.example/t:1" # x
        args  = ["decoy.example/x:1"]
      }
    }
  }
}
