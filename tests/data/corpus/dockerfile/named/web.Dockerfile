FROM img.example/web:1
